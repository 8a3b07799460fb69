package cri

import (
	"bytes"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stagelet/stagelet/internal/errs"
)

// listCache holds the encoded items of a list. Kubelet asks for all pods and
// containers each second, of which hardly any has changed; encoding them
// again, labels and annotations above all, costs 20 times what all the rest of
// a list does (BenchmarkListContainersServe).
//
// K identifies a state of an item: two items with equal keys are equal. It
// holds pointers into snapshots, which never change.
type listCache[K comparable] struct {
	mu   sync.Mutex
	wire map[K][]byte
}

// listField is the number of the repeated field with the items, in the
// responses of ListPodSandbox, ListContainers and their streamed forms.
const listField protowire.Number = 1

// encode gives the items with those keys as a message that lists them has them
// on the wire. total is how many items there are, listed or not.
func (c *listCache[K]) encode(keys []K, total int, item func(K) proto.Message) ([][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wire == nil || len(c.wire) > 2*total+len(keys) { // mostly of items long gone
		c.wire = make(map[K][]byte, total)
	}
	list := make([][]byte, 0, len(keys))
	for _, key := range keys {
		wire, known := c.wire[key]
		if !known {
			encoded, err := proto.Marshal(item(key))
			if err != nil {
				return nil, errs.Wrap("encode", "list", err)
			}
			wire = protowire.AppendBytes(protowire.AppendTag(nil, listField, protowire.BytesType), encoded)
			c.wire[key] = wire
		}
		list = append(list, wire)
	}
	return list, nil
}

// filled puts items into an empty message. What a message does not know it
// passes on as it is, so that its reader sees the fields.
func filled[M proto.Message](empty M, items [][]byte) M {
	empty.ProtoReflect().SetUnknown(bytes.Join(items, nil))
	return empty
}

func wireSize(item []byte) int { return len(item) }
