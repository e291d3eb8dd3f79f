package memorybank

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const killEnv = "AFTERIMAGE_TEST_KILL"

// killOptions make everything happen often: thinning, checkpoints, joins.
func killOptions() StoreOptions {
	return StoreOptions{Origin: origin, Strategy: Flash{Synopsis: 5, Detail: 2}, Epoch: storeEpoch, Budget: MinBudget, Entries: 600,
		Every: 5 * time.Millisecond, Wait: true}
}

// writeUntilKilled is the child: it goes on with a store, at full speed, and says how many frames are in.
func writeUntilKilled(dir string) {
	o := killOptions()
	o.Warn = func(err error) { fmt.Println("warned:", err); os.Exit(3) }
	s, err := OpenStore(dir, o)
	if err != nil {
		fmt.Println("warned:", err)
		os.Exit(3)
	}
	w := newWalk(7)
	for range s.Bank().Snapshot().Version {
		w.next()
	}
	for {
		s.Bank().Add(w.next())
		fmt.Println(s.Bank().Snapshot().Version)
	}
}

// A process that writes at full speed is killed again and again: its store is never corrupt, never more than a clip is lost, and what is
// there is just what a process that was never killed would have.
func TestKilledWhileWriting(t *testing.T) {
	rounds, limit := 200, 3*time.Minute // some 20 s on a machine that has nothing else to do
	if testing.Short() {
		rounds = 10
	}
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	o := killOptions()
	o.Warn = func(err error) { t.Errorf("warned: %v", err) }
	whole, w := New(storeEpoch, o.Strategy), newWalk(7)
	hashes := []string{whole.Snapshot().Hash()}
	r := rand.New(rand.NewPCG(1, 2))
	began, done, worst := time.Now(), 0, 0
	for ; done < rounds && time.Since(began) < limit; done++ {
		c := exec.Command(self)
		c.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan())
		last := lines.Text()
		timer := time.AfterFunc(time.Duration(r.IntN(120_000))*time.Microsecond, func() { c.Process.Kill() })
		for lines.Scan() {
			last = lines.Text()
		}
		timer.Stop()
		c.Wait() //nolint:errcheck // it was killed
		require.Equal(t, "signal: killed", c.ProcessState.String(), "it said: %s", last)
		said, err := strconv.Atoi(last)
		if err != nil { // the kill cut the line
			said = len(hashes) - 1
		}

		s, err := OpenStore(dir, o)
		require.NoError(t, err)
		snap := s.Bank().Snapshot()
		lost := said - int(snap.Version)
		worst = max(worst, lost)
		require.LessOrEqual(t, lost, 16, "round %d: it said %d", done, said)
		for len(hashes) <= int(snap.Version) {
			whole.Add(w.next())
			hashes = append(hashes, whole.Snapshot().Hash())
		}
		require.Equal(t, hashes[snap.Version], snap.Hash(), "round %d", done)
		require.LessOrEqual(t, dirBytes(dir), o.Budget)
		for _, f := range s.files {
			_, err := s.load(f)
			require.NoError(t, err)
		}
		require.NoError(t, s.Close())
	}
	t.Logf("killed %d times in %s, %d frames, at most %d lost at once", done, time.Since(began).Round(time.Second), len(hashes)-1, worst)
	require.Positive(t, done)
}
