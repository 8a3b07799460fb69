package e2e

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pointVariants gives what stands for "*" in the name of a crash point that is
// put together at run time.
var pointVariants = map[string][]string{
	"pod.move.*.before": {"prepare", "run", "exited-garbage"},
	"pod.move.*.after":  {"prepare", "run", "exited-garbage"},
	// States of an app, as the supervisor writes them.
	"supervisor.status.before-*": {"running", "exited"},
	"supervisor.status.after-*":  {"running", "exited"},
}

// crashPoints finds every crash.Point("…") of the module's sources, so that
// none is forgotten here.
func crashPoints(t *testing.T) []string {
	t.Helper()
	points := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if name, ok := pointName(n); ok {
				points[name] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for name := range points {
		before, after, dynamic := strings.Cut(name, "*")
		if !dynamic {
			all = append(all, name)
			continue
		}
		variants, known := pointVariants[name]
		if !known {
			t.Errorf("what can stand for * in the crash point %s? Tell pointVariants", name)
		}
		for _, v := range variants {
			all = append(all, before+v+after)
		}
	}
	slices.Sort(all)
	return all
}

// pointName gives the argument of a call of crash.Point: "*" stands for what
// is no literal.
func pointName(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) != 1 {
		return "", false
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != "Point" {
		return "", false
	}
	if pkg, ok := selector.X.(*ast.Ident); !ok || pkg.Name != "crash" {
		return "", false
	}
	return literal(call.Args[0]), true
}

func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return text
		}
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return "*"
}

func TestCrashPointsAreFound(t *testing.T) {
	points := crashPoints(t)
	if len(points) < 10 {
		t.Errorf("found %q", points)
	}
	packages := map[string]int{}
	for _, p := range points {
		name, _, _ := strings.Cut(p, ".")
		packages[name]++
	}
	t.Log(fmt.Sprint(len(points), " crash points, by package: ", slices.Sorted(maps.Keys(packages)), packages))
}
