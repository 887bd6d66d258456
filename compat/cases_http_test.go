package compat

import (
	"io"
	"net/http"
	"sort"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func grpcCode(err error) codes.Code { return status.Code(err) }

// HTTP logs status, content type and body of a plain HTTP/1.1 request.
func (c *C) HTTP(method, path string) string {
	q, err := http.NewRequestWithContext(c.Ctx, method, c.M.ClientURL()+path, nil)
	c.Must(err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	p, err := client.Do(q)
	if err != nil {
		c.Log("%s %s: no answer", method, path)
		return ""
	}
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	c.Must(err)
	text := string(body)
	if strings.HasPrefix(path, "/readyz") || strings.HasPrefix(path, "/livez") {
		lines := strings.SplitAfter(text, "\n") // the order of the checks is random in etcd
		sort.Strings(lines)
		text = strings.Join(lines, "")
	}
	if len(text) > 600 {
		text = text[:20] + "..."
	}
	c.Log("%s %s: %d %q %q allow=%q nosniff=%q", method, path, p.StatusCode,
		p.Header.Get("Content-Type"), text, p.Header.Get("Allow"),
		p.Header.Get("X-Content-Type-Options"))
	return string(body)
}

func init() {
	register("http",
		Case{Name: "version", Run: func(c *C) { c.HTTP("GET", "/version") }},
		Case{Name: "version by other methods", Run: func(c *C) {
			c.HTTP("POST", "/version")
			c.HTTP("PUT", "/version")
			c.HTTP("HEAD", "/version")
			c.HTTP("DELETE", "/version")
		}},
		Case{Name: "health", Run: func(c *C) {
			c.HTTP("GET", "/health")
			c.HTTP("GET", "/health?serializable=true")
			c.HTTP("GET", "/health?exclude=NOSPACE")
			c.HTTP("GET", "/health?exclude=nonsense&serializable=false")
		}},
		Case{Name: "health by other methods", Run: func(c *C) { c.HTTP("POST", "/health"); c.HTTP("HEAD", "/health") }},
		Case{Name: "livez", Run: func(c *C) {
			c.HTTP("GET", "/livez")
			c.HTTP("GET", "/livez?verbose")
			c.HTTP("GET", "/livez?verbose=false")
			c.HTTP("GET", "/livez/serializable_read")
			c.HTTP("GET", "/livez/serializable_read?verbose")
			c.HTTP("GET", "/livez?exclude=serializable_read")
			c.HTTP("GET", "/livez?exclude=serializable_read&verbose")
			c.HTTP("POST", "/livez")
		}},
		Case{Name: "readyz", Run: func(c *C) {
			c.HTTP("GET", "/readyz")
			c.HTTP("GET", "/readyz?verbose")
			c.HTTP("GET", "/readyz?exclude=data_corruption&exclude=nonsense&verbose")
			for _, name := range []string{"data_corruption", "serializable_read", "linearizable_read",
				"non_learner"} {
				c.HTTP("GET", "/readyz/"+name)
				c.HTTP("GET", "/readyz/"+name+"?verbose")
			}
			c.HTTP("HEAD", "/readyz")
		}},
		Case{Name: "unknown checks", Run: func(c *C) {
			c.HTTP("GET", "/readyz/nonsense")
			c.HTTP("GET", "/livez/linearizable_read")
			c.HTTP("GET", "/livez/")
			c.HTTP("GET", "/readyz/")
		}},
		Case{Name: "paths that are not there", Run: func(c *C) {
			for _, path := range []string{"/", "/nonsense", "/v2/keys/a", "/members", "/config",
				"/raft", "/v2", "/health/x", "/version/", "/debug/requests", "/debug/pprof/"} {
				c.HTTP("GET", path)
			}
			c.HTTP("POST", "/")
		}},
		Case{Name: "metrics", Run: func(c *C) {
			c.Put("a=1")
			body := c.HTTP("GET", "/metrics")
			for _, name := range []string{"etcd_server_has_leader 1", "etcd_server_is_leader 1",
				"etcd_server_proposals_committed_total ", "etcd_mvcc_db_total_size_in_bytes ",
				"etcd_server_version{server_version=\"3.7.1\"} 1", "etcd_disk_wal_fsync_duration_seconds_count ",
				"etcd_disk_backend_commit_duration_seconds_count ",
				"grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} "} {
				c.Log("%s %v", name, strings.Contains(body, "\n"+name))
			}
		}},
	)
}
