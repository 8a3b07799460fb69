package supervisor

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// maxRuntimeLog bounds what is read of a runtime's log, in bytes: its end.
const maxRuntimeLog = 64 << 10

// runtimeWords gives what an OCI runtime wrote as its last error into its
// JSON log (--log-format json: level, msg, time); "" when it wrote none.
func runtimeWords(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > maxRuntimeLog {
		_, _ = f.Seek(-maxRuntimeLog, io.SeekEnd)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRuntimeLog))
	if err != nil {
		return ""
	}
	return lastError(data)
}

// lastError takes lines that are no JSON as they are: some runtimes write
// such when they panic.
func lastError(log []byte) string {
	var last, plain string
	for line := range bytes.Lines(log) {
		line = bytes.TrimSpace(line)
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) != nil {
			if len(line) > 0 {
				plain = string(line)
			}
			continue
		}
		if entry.Level != "debug" && entry.Level != "info" && entry.Level != "warning" && entry.Msg != "" {
			last = entry.Msg
		}
	}
	if last == "" {
		last = plain
	}
	return truncate(strings.ToValidUTF8(last, "�"))
}

// truncate bounds a message; what is cut off is marked.
func truncate(s string) string {
	const mark = "…"
	if len(s) <= manifest.MaxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:manifest.MaxMessage-len(mark)], "") + mark
}
