package qa

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"afterimage/memorybank"
)

// The same source watched again gives the same memory, bit for bit: whatever the epoch, with a store or without one, and after the store was
// closed and opened again on the way.
func TestReplayIsDeterministic(t *testing.T) {
	for _, strategy := range []memorybank.Strategy{memorybank.Flash{Synopsis: 4, Detail: 2}, memorybank.Recent{N: 5}, memorybank.Composite{Past: 6, Unit: 4}} {
		watch := func(bank *memorybank.Bank, src *fakeSource) string {
			require.NoError(t, Watch(t.Context(), src, &fakeEncoder{}, bank))
			return bank.Snapshot().Hash()
		}
		want := watch(memorybank.New(epoch, strategy), &fakeSource{n: 81, err: io.EOF})
		require.Equal(t, want, watch(memorybank.New(epoch, strategy), &fakeSource{n: 81, err: io.EOF}))
		require.NotEqual(t, want, watch(memorybank.New(epoch, strategy), &fakeSource{n: 80, err: io.EOF}))

		dir := filepath.Join(t.TempDir(), "memory")
		src := &fakeSource{n: 30, err: io.EOF}
		for _, n := range []int{30, 81} {
			store, err := memorybank.OpenStore(dir, memorybank.StoreOptions{Strategy: strategy, Epoch: epoch.Add(time.Duration(n-30) * time.Hour), Wait: true})
			require.NoError(t, err)
			src.n = n
			hash := watch(store.Bank(), src)
			require.NoError(t, store.Close())
			if n == 81 {
				require.Equal(t, want, hash)
			}
		}
	}
}
