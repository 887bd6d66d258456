package compat

import (
	"strings"
	"testing"

	"quorate/compat/harness"
)

// TestUsersThroughOthers asks a real member of a mixed cluster for users, and adds one there: ours passes
// the questions over, and ends with a line at what it cannot apply. Started again it refuses at once and
// touches nothing; etcd takes its place, and ours etcd's.
func TestUsersThroughOthers(t *testing.T) {
	t.Parallel()
	if realTwice() {
		t.Skip("asks how ours says it")
	}
	c := harness.LaunchCluster(t, false, mix("EQE").kinds())
	theirs, ours := c.Members[0], c.Members[1]
	client := c.ClientOf(theirs)
	ctx := t.Context()
	_, err := client.UserList(ctx)
	if err == nil {
		_, err = client.RoleList(ctx)
	}
	if err == nil {
		_, err = client.AuthStatus(ctx)
	}
	if err == nil {
		_, err = client.AuthDisable(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.UserGet(ctx, "nobody"); err == nil || !strings.Contains(err.Error(), "user name not found") {
		t.Fatal(err)
	}
	if _, err := client.Authenticate(ctx, "nobody", "secret"); err == nil ||
		!strings.Contains(err.Error(), "authentication is not enabled") {
		t.Fatal(err)
	}
	c.Agree(2)
	if _, err := client.UserAdd(ctx, "somebody", "secret"); err != nil {
		t.Fatal(err)
	}
	refusal(t, ours, "authentication request (user add)")
	for range 2 { // and the log says that it is committed
		if _, err := client.Put(ctx, "a", "1"); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, ours, "authentication request (user add)")
	ours.Kind = harness.Real
	c.Start(ours)
	c.Agree(2)
	harness.MustStop(t, ours)
	ours.Kind = harness.Ours
	c.Start(ours)
	c.Agree(2)
	before := rowsAfterStop(t, ours)
	if !strings.Contains(before, `authUsers "somebody"`) {
		t.Errorf("the user is not there\n%s", before)
	}
}

// rowsAfterStop stops a member and shows its users.
func rowsAfterStop(t *testing.T, m *harness.Member) string {
	t.Helper()
	harness.MustStop(t, m)
	return rows(t, m, "auth", "authUsers", "authRoles")
}
