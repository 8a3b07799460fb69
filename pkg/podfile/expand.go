package podfile

import "strings"

// expand replaces $(NAME) by the value of a variable, as kubelet does: $$ is a
// dollar, and what names no variable stays as it stands.
func expand(text string, value func(name string) (string, bool)) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		text = after
		switch {
		case strings.HasPrefix(text, "$"):
			b.WriteByte('$')
			text = text[1:]
		case strings.HasPrefix(text, "("):
			name, rest, closed := strings.Cut(text[1:], ")")
			if !closed {
				b.WriteByte('$')
				continue
			}
			v, known := value(name)
			if !known {
				v = "$(" + name + ")"
			}
			b.WriteString(v)
			text = rest
		default:
			b.WriteByte('$')
		}
	}
}
