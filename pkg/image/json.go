package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// DecodeDocument reads one JSON document from outside into v: at most
// MaxDocument bytes, one value with nothing after it, no key twice in an
// object. In the outermost objects a key also may not come in two spellings:
// encoding/json takes both for the same field, other readers don't.
func DecodeDocument(what string, data []byte, v any) error {
	const op = "parse"
	if len(data) > MaxDocument {
		return Refuse(op, TooLarge, what, "%d bytes, more than %d", len(data), MaxDocument)
	}
	if err := checkKeys(data); err != nil {
		if errors.Is(err, Ambiguous) {
			return errs.New(op, Ambiguous.Kind(), what, err)
		}
		return Refuse(op, Malformed, what, "%w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Refuse(op, Malformed, what, "%w", err)
	}
	return nil
}

// object is one JSON object or array that the scan is inside of.
type object struct {
	keys    map[string]bool // nil for an array
	wantKey bool
}

func checkKeys(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var open []object
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil // json.Unmarshal checks that there was exactly one value
		}
		if err != nil {
			return err
		}
		if d, ok := token.(json.Delim); ok && (d == '}' || d == ']') {
			open = open[:len(open)-1]
			continue
		}
		if len(open) > 0 {
			if o := &open[len(open)-1]; o.keys != nil {
				isKey := o.wantKey
				o.wantKey = !isKey
				if isKey {
					outermost := len(open) == 1 || len(open) == 2 && open[0].keys == nil
					if err := o.add(token, outermost); err != nil {
						return err
					}
					continue
				}
			}
		}
		switch token {
		case json.Delim('{'):
			open = append(open, object{keys: map[string]bool{}, wantKey: true})
		case json.Delim('['):
			open = append(open, object{})
		}
	}
}

func (o *object) add(token json.Token, fold bool) error {
	key, ok := token.(string)
	if !ok {
		return errors.New("an object's key is not a string")
	}
	if fold {
		key = strings.ToLower(key)
	}
	if o.keys[key] {
		return fmt.Errorf("%w: the key %s is there twice", Ambiguous, Printable(key))
	}
	o.keys[key] = true
	return nil
}
