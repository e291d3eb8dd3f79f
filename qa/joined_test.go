package qa

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"afterimage/internal/compute"
	"afterimage/memorybank"
)

// A join is asked for what the prompt before did not have, and not at all where that is nothing.
func TestJoinedRowsAreKept(t *testing.T) {
	var asked [][]uint64
	join := func(_ context.Context, entries []memorybank.Entry) (rows []compute.Matrix, err error) {
		var ids []uint64
		for _, e := range entries {
			ids = append(ids, e.ID)
			rows = append(rows, compute.Matrix{Rows: 1, Cols: 1, Data: []float32{float32(e.ID)}})
		}
		asked = append(asked, ids)
		return rows, nil
	}
	entry := func(ids ...uint64) (list []memorybank.Entry) {
		for _, id := range ids {
			list = append(list, memorybank.Entry{ID: id})
		}
		return list
	}
	var j joined
	for _, ids := range [][]uint64{{1, 2}, {1, 2}, {2, 3}, {1}} {
		rows, err := j.rows(t.Context(), join, entry(ids...))
		require.NoError(t, err)
		for i, id := range ids {
			require.Equal(t, []float32{float32(id)}, rows[i].Data)
		}
	}
	j.drop()
	_, err := j.rows(t.Context(), join, entry(1))
	require.NoError(t, err)
	require.Equal(t, [][]uint64{{1, 2}, {3}, {1}, {1}}, asked)

	lost := errors.New("the device is lost")
	_, err = j.rows(t.Context(), func(context.Context, []memorybank.Entry) ([]compute.Matrix, error) { return nil, lost }, entry(9))
	require.ErrorIs(t, err, lost)
	_, err = j.rows(t.Context(), func(context.Context, []memorybank.Entry) ([]compute.Matrix, error) { return nil, nil }, entry(9))
	require.ErrorContains(t, err, "0 matrices for 1 entries")
}
