package hostile

import "testing"

// Archive is an archive to be refused.
type Archive struct {
	Name  string
	Data  func(t testing.TB) []byte
	Want  error  // what the error is
	Says  string // what stands in it
	Named string // the name that is asked for instead of the archive's
}

// Archives gives all of them.
func Archives() (all []Archive) {
	for _, form := range []struct {
		name    string
		attacks []Archive
	}{{"outer", outerAttacks()}, {"docker", dockerAttacks()}, {"docker", dockerMismatches()}, {"OCI", layoutAttacks()}} {
		for _, a := range form.attacks {
			a.Name = form.name + ", " + a.Name
			all = append(all, a)
		}
	}
	return all
}

// docker attacks with a changed archive of "docker save".
func docker(change func(t testing.TB, a Items) Items) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return change(t, DockerSave(t, "one:1")).Pack(t) }
}

// oci attacks with an OCI layout.
func oci(build func(t testing.TB, l *Layout) Items) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return build(t, NewLayout(t)).Pack(t) }
}

func extra(i Item) func(testing.TB) []byte {
	return docker(func(_ testing.TB, a Items) Items { return a.Plus(i) })
}

// relink makes the first layer a symbolic link.
func relink(to string, more ...Item) func(testing.TB) []byte {
	return docker(func(t testing.TB, a Items) Items {
		i := a.At(t, "/layer.tar")
		name := a[i].Name
		a = a.Without(t, name)
		return a.Plus(Item{Name: name, Link: to}).Plus(more...)
	})
}
