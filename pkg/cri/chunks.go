package cri

import "google.golang.org/protobuf/proto"

// chunkSize is how large a message of a streamed list grows before the next
// one begins, in bytes: far below maxMessage, so that items that come last may
// be large, and large enough that most lists are one message.
const chunkSize = 1 << 20

// inChunks sends all items, in order, each in one message. Of nothing it sends
// nothing. Every streamed list goes through here.
func inChunks[T any](items []T, size func(T) int, send func(chunk []T) error) error {
	for len(items) > 0 {
		n, total := 1, size(items[0])
		for n < len(items) {
			next := size(items[n])
			if total+next > chunkSize {
				break
			}
			n, total = n+1, total+next
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func messageSize[M proto.Message](m M) int { return proto.Size(m) }
