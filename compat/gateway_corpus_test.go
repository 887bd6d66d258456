package compat

import (
	"fmt"
	"strings"
)

// Routes that wait, or grant a short lease with a random id, or that ours refuses on purpose, when they are
// asked for nothing.
var gatewayWaits = []string{"/v3/lease/grant", "/v3/cluster/member/update", "/v3/lock/lock", "/v3/election/campaign", "/v3/election/observe"}

// gatewayCorpus is what both servers are asked, in this order.
func gatewayCorpus(routes []string) []gatewayRequest {
	var corpus []gatewayRequest
	add := func(method, path, body string, headers ...string) {
		corpus = append(corpus, gatewayRequest{method: method, path: path, body: body, headers: headers})
	}
	post := func(path string, bodies ...string) {
		for _, body := range bodies {
			add("POST", "/v3/"+path, body)
		}
	}
	soon := func(path string, bodies ...string) {
		for _, body := range bodies {
			add("POST", "/v3/"+path, body, "Grpc-Timeout: 200m")
		}
	}
	for _, route := range routes {
		below := strings.TrimPrefix(route, "/v3/")
		bodies := []string{"[]", "{", "nonsense", `{"header":`}
		waits := false
		for _, one := range gatewayWaits {
			waits = waits || one == route
		}
		if !waits {
			bodies = append(bodies, "", "{}", `{"unknown":[1,{"a":null}]}`)
		}
		for _, body := range bodies {
			corpus = append(corpus, gatewayRequest{method: "POST", path: route, body: body,
				headers: []string{"Grpc-Timeout: 300m"}, gist: strings.HasSuffix(route, "snapshot") ||
					strings.HasSuffix(route, "/hash") || below == "maintenance/status"})
		}
		for _, method := range []string{"GET", "PUT", "DELETE", "PATCH", "HEAD"} {
			add(method, route, "")
		}
		add("POST", strings.Replace(route, "/v3/", "/v3beta/", 1), "[", "Grpc-Timeout: 300m")
		add("POST", route+"/", "{}")
	}
	gatewayPaths(add)
	gatewayNumbers(post)
	gatewayText(post)
	gatewayKeys(post)
	gatewayTxns(post)
	gatewayRest(post, soon)
	gatewayHeaderCases(add)
	gatewayOwners(post, soon)
	return corpus
}

func gatewayPaths(add func(method, path, body string, headers ...string)) {
	for _, path := range []string{"/v3", "/v3/", "/v3beta", "/v3beta/", "/v3alpha/kv/range", "/v3/kv", "/v3/nonsense",
		"/v3/kv/range?a=b", "/v3//kv/range", "/v3/kv/../kv/range", "/v3/kv/./range?x=1", "/v3/kv/r%61nge", "/v3/kv%2Frange",
		"/v3/KV/range", "/v3/kv/rangestream", "/v3/watch/", "/v3?a=b&c='d'"} {
		for _, method := range []string{"POST", "GET", "HEAD"} {
			add(method, path, "")
		}
	}
}

func gatewayNumbers(post func(path string, bodies ...string)) {
	for _, number := range []string{"1", "0", "-1", "1.0", "1.5", "1e2", "1E+2", "100e-2", "12e-1", "-0", "1e400", "1e19", "9223372036854775807",
		"9223372036854775808", "-9223372036854775808", "-9223372036854775809", "01", "+1", "1.", ".5", "0x1", "NaN", "1e",
		`"1"`, `"1.0"`, `"1e1"`, `" 1"`, `"1 "`, `"1,2"`, `"1 2"`, `"1]"`, `"1x"`, `""`, `"-"`, `"-1"`, `"1e"`, `"1e+"`, `"null"`, `"\u0031"`, `"\"1\""`,
		"true", "null", "{}", "[1]", `"99999999999999999999"`} {
		post("kv/range", `{"key":"YQ==","limit":`+number+`}`)
		post("cluster/member/remove", `{"ID":`+number+`}`)
		post("kv/range", `{"key":"YQ==","sort_order":`+number+`}`)
	}
	for _, value := range []string{"true", "false", `"true"`, "1", "null", "tru", "trues", "True"} {
		post("kv/range", `{"key":"YQ==","keys_only":`+value+`}`)
	}
	for _, name := range []string{"NONE", "DESCEND", "descend", "BOGUS", "", "1"} {
		post("kv/range", fmt.Sprintf(`{"key":"YQ==","range_end":"eg==","sort_order":%q,"sortTarget":"MOD"}`, name))
	}
}

func gatewayText(post func(path string, bodies ...string)) {
	for _, text := range []string{"YQ==", "YQ", "YQ=", "YR==", "YWI=", "YWI", "YWJj", "Y", "Y===", "====", "a b", "--__", "++//", "+-__", "-_", "_w==",
		`YW\nJj`, `YQ\n==`, `YQ=\n`, "YQ==YQ==", "YQ==\u00e4", `\u0059\u0051`, "\u00e4", "YQ-=", "YQ+="} {
		post("kv/put", `{"key":"YQ==","value":"`+text+`"}`)
	}
	for _, text := range []string{"5", "{}", "[]", "null", "true", `"\ud800"`, `"\ud800abcdefg"`, `"\ud83d\ude00"`, `"\ud800\u0041"`, `"\udc00\ud800"`,
		`"\x"`, `"\u12g4"`, "\"\x01\"", "\"\n\"", "\"\xff\"", "\"\xc3\xa4\"", `"<>&"`, "\"\u2028\"", "\"\x7f\""} {
		post("kv/put", `{"key":`+text+`}`)
		post("maintenance/downgrade", `{"action":"ENABLE","version":`+text+`}`)
		post("kv/range", "{\n  "+text+": 1}", "{\n\t\"x\\u00e4\": "+text+",\n \"key\": 7}")
	}
	post("kv/range", "x", "'", "\"", "\xff", "\x00", "\x7f", "\u00e4", "nul", "nulx", "tru", "-", "-x", "1.x", "1ex", "1e+x", "0 1", "null", "true", `"a"`, "5",
		"{x", `{"a"`, `{"a"x`, `{"a":`, `{"a":x`, `{"a":1`, `{"a":1x`, `{"a":1,`, `{"a":1,}`, `{"a":1,x`, `{1:1}`, `{"key":[`, `{"key":[1`, `{"key":[1x`, `{"key":[1,`, `{"key":[1,]`,
		" \n\t{}", "\n\n{\"key\":5}", `{} x`, `{"key":"YQ=="} {`, `{"key":"YQ=="}nonsense`, "{}{}", "\ufeff{}", `{"key":"YQ==","key":"YQ=="}`,
		`{"range_end":"","rangeEnd":""}`, `{"key":null,"key":""}`, `{"KEY":"YQ=="}`, `{"[a.b]":1,"key":"YQ=="}`, `{"@type":1,"key":"YQ=="}`, `{"":1,"key":"YQ=="}`,
		`{"key":"YQ==","limit":"x"`, `{"key":"YQ==","unknown":{"a":[{"b":"\ud800"}]}}`, "{\"\u00e4\u00f6\":\"\U0001f600\",\"key\":7}",
		strings.Repeat("[", 10001), strings.Repeat(`{"a":`, 10001), `{"a":`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`,"key":"YQ=="}`)
}

func gatewayKeys(post func(path string, bodies ...string)) {
	post("kv/put", `{}`, `{"key":""}`, `{"key":"YQ==","value":"MQ=="}`, `{"key":"YQ==","value":"Mg==","prev_kv":true}`,
		`{"key":"Yg==","value":"MQ==","prevKv":true}`, `{"key":"YQ==","ignore_value":true,"value":"eA=="}`, `{"key":"YQ==","ignoreValue":true}`,
		`{"key":"eno=","ignore_lease":true}`, `{"key":"YQ==","lease":"77"}`, `{"key":"`+strings.Repeat("QUJD", 10)+`","value":"`+strings.Repeat("QUJD", 1000)+`"}`,
		`{"key":"YmlnCg==","value":"`+strings.Repeat("QUJD", 600_000)+`"}`, `{"key":"YmlnCg==","value":"`+strings.Repeat("QUJD", 720_000)+`"}`)
	post("kv/range", `{"key":"YQ=="}`, `{"key":"AA==","range_end":"AA=="}`, `{"key":"AA==","rangeEnd":"AA==","limit":1}`, `{"key":"AA==","range_end":"AA==","keys_only":true}`,
		`{"key":"AA==","range_end":"AA==","count_only":true}`, `{"key":"YQ==","revision":"2"}`, `{"key":"YQ==","revision":"9999"}`, `{"key":"YQ==","revision":-1}`,
		`{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sort_target":"MOD","limit":"2"}`, `{"key":"YQ==","sort_order":9}`, `{"key":"YQ==","sort_target":"9"}`,
		`{"key":"AA==","range_end":"AA==","min_mod_revision":"3","maxModRevision":4}`, `{"key":"YQ==","serializable":true}`, `{"key":"bm9uZQ=="}`)
	post("kv/deleterange", `{"key":"Yg==","prev_kv":true}`, `{"key":"bm9uZQ=="}`, `{"key":""}`, `{"key":"eA==","range_end":"eQ=="}`)
	post("kv/compaction", `{"revision":"3"}`, `{"revision":"3"}`, `{"revision":9999}`, `{"revision":-5}`, `{"revision":"4","physical":true}`)
	post("kv/range", `{"key":"YQ==","revision":2}`, `{"key":"YQ==","revision":"4"}`)
}

func gatewayTxns(post func(path string, bodies ...string)) {
	put := `{"request_put":{"key":"dA==","value":"MQ==","prev_kv":true}}`
	get := `{"request_range":{"key":"dA=="}}`
	gone := `{"request_delete_range":{"key":"dA==","prev_kv":true}}`
	post("kv/txn", `{}`, `{"success":[`+put+`]}`, `{"success":[`+put+`,`+get+`]}`, `{"success":[`+get+`,`+put+`,{"request_put":{"key":"dQ=="}}]}`, `{"success":[`+put+`,`+put+`]}`,
		`{"failure":[`+put+`],"success":[`+get+`]}`, `{"success":[`+gone+`]}`, `{"success":[{"request_txn":{"success":[`+put+`]}}]}`,
		`{"success":[{"requestTxn":{"compare":[{"key":"dA==","target":"VALUE","result":"EQUAL","value":"MQ=="}],"success":[`+get+`],"failure":[`+gone+`]}}]}`,
		`{"success":[{}]}`, `{"success":[null]}`, `{"success":{}}`, `{"success":null}`, `{"success":[[]]}`, `{"success":["x"]}`, `{"success":[{"request_put":null}]}`,
		`{"success":[{"request_put":{},"request_range":{}}]}`, `{"success":[{"request_put":null,"request_range":{"key":"dA=="}}]}`, `{"success":[{"request_put":{}},{"request_put":{}}]}`)
	for _, compare := range []string{`{"key":"dA==","target":"VERSION","version":"1"}`, `{"key":"dA==","target":"CREATE","create_revision":0}`, `{"key":"dA==","target":"MOD","result":"GREATER","modRevision":"1"}`,
		`{"key":"dA==","target":"VALUE","value":""}`, `{"key":"dA==","target":"LEASE","lease":0}`, `{"key":"dA==","result":"NOT_EQUAL"}`, `{"key":"dA==","result":"LESS","target":"BOGUS","version":5}`,
		`{"key":"dA==","version":1,"lease":2}`, `{"key":"dA==","version":null,"lease":2}`, `{"version":1}`, `{}`, `{"key":"dA==","range_end":"eA==","version":0}`, `{"key":"dA==","target":9}`} {
		post("kv/txn", `{"compare":[`+compare+`],"success":[`+get+`],"failure":[{"request_range":{"key":"eA==","count_only":true}}]}`)
	}
	for _, depth := range []int{2, 60, 300} {
		post("kv/txn", strings.Repeat(`{"success":[{"request_txn":`, depth)+"{}"+strings.Repeat("}]}", depth))
	}
}

func gatewayRest(post, soon func(path string, bodies ...string)) {
	post("lease/grant", `{"TTL":100,"ID":7}`, `{"TTL":"100","ID":"7"}`, `{"TTL":"9000000001","ID":8}`, `{"TTL":"500","ID":"9","ttl":1}`)
	post("kv/put", `{"key":"bGVhc2Vk","lease":7}`)
	post("lease/timetolive", `{"ID":7}`, `{"ID":"7","keys":true}`, `{"ID":1234}`, `{"ID":0}`)
	post("kv/lease/timetolive", `{"ID":7,"keys":true}`)
	post("lease/leases", `{}`)
	post("kv/lease/leases", ``)
	soon("lease/keepalive", `{"ID":7}`, `{"ID":7}{"ID":"8"}`, `{"ID":7} x {"ID":7}`, `{"ID":"x"}`, `[]`, `{"ID":7}`+"\n\n"+`{"ID":7}`, `{"ID":7}5`, ` `)
	post("lease/revoke", `{"ID":7}`, `{"ID":7}`)
	post("kv/lease/revoke", `{"ID":"9"}`, `{"ID":"9"}`)
	soon("watch", `{"create_request":{"key":"YQ==","start_revision":"5"}}`, `{"create_request":{"key":"YQ==","start_revision":"1"}}`, `{"create_request":{"key":"YQ==","start_revision":"-1"}}`,
		`{"create_request":{"key":"eA==","range_end":"YQ=="}}`, `{"create_request":{"watch_id":"5"}}{"create_request":{"watch_id":5}}`, `{"createRequest":{"key":"YQ==","filters":["NOPUT",1,"X"],"fragment":true}}`,
		`{"create_request":{"key":"YQ=="}}{"progress_request":{}}`, `{"create_request":null}`, `{"cancel_request":{},"progress_request":{}}`, `{"create_request":{"key":5}}`, `x`)
	post("cluster/member/list", `{"linearizable":true}`, `{"linearizable":"x"}`)
	post("cluster/member/add", `{"peerURLs":["nonsense"]}`, `{"peerURLs":"x"}`, `{"peerURLs":[5]}`, `{"peerURLs":["http://a:1/x"]}`, `{"peerURLs":[null]}`)
	post("cluster/member/update", `{"ID":5,"peerURLs":["http://a:1"]}`)
	post("cluster/member/promote", `{"ID":"18446744073709551615"}`)
	post("maintenance/alarm", `{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}`, `{"action":"GET"}`, `{"action":0,"alarm":1}`, `{"action":"DEACTIVATE","memberID":5,"alarm":"NOSPACE"}`)
	post("maintenance/hashkv", `{"revision":"5"}`, `{"revision":9999}`, `{"revision":1}`)
	post("maintenance/transfer-leadership", `{"targetID":"5"}`, `{"target_iD":5}`)
	post("maintenance/downgrade", `{"action":"VALIDATE","version":"3.6.0"}`, `{"action":"ENABLE","version":"1.0"}`, `{"action":"CANCEL"}`, `{"action":9,"version":"3.6"}`, `{"version":5}`)
	post("auth/authenticate", `{"name":"a","password":"b"}`, `{"name":5}`)
	post("auth/role/grant", `{"name":"a","perm":{"permType":"READ","key":"YQ=="}}`, `{"name":"a","perm":{"key":5}}`)
}

func gatewayHeaderCases(add func(method, path, body string, headers ...string)) {
	get := `{"key":"YQ=="}`
	for _, header := range []string{"Content-Type: application/json", "Content-Type: text/plain", "Content-Type: application/grpc", "Accept: text/html", "TE: trailers", "TE: x, Trailers",
		"Grpc-Metadata-Hasleader: true", "Grpc-Metadata-Client-Api-Version: 3.7", "Grpc-Metadata-Grpc-Timeout: 1n", "Grpc-Metadata-Te: x", "Grpc-Metadata-Content-Type: x", "Authorization: x", "Grpc-Metadata-Token: x",
		"Grpc-Metadata-A-Bin: YQ", "Grpc-Metadata-A-Bin: YQ==", "Grpc-Metadata-A-Bin: !!", "Grpc-Metadata-A-Bin: YQ=a", "Grpc-Metadata-A-Bin: Y", "Grpc-Timeout: 5S", "Grpc-Timeout: 0S", "Grpc-Timeout: -1S", "Grpc-Timeout: 1n",
		"Grpc-Timeout: S", "Grpc-Timeout: 1", "Grpc-Timeout: x", "Grpc-Timeout: 1.5S", "Grpc-Timeout: 1x", "Origin: http://a", "X-HTTP-Method-Override: GET", "Expect: 100-continue"} {
		add("POST", "/v3/kv/range", get, header)
		add("POST", "/v3/kv/range", `{}`, header)
	}
	add("POST", "/v3/kv/put", `{`, "TE: trailers")
	add("POST", "/v3/maintenance/snapshot", `[`, "TE: trailers")
	add("POST", "/v3/nonsense", `{`, "TE: trailers")
	for _, method := range []string{"get", "POST", "Put", ""} {
		add("POST", "/v3/kv/range", get, "Content-Type: application/x-www-form-urlencoded", "X-HTTP-Method-Override: "+method)
	}
	add("POST", "/v3/kv/range", get, "Content-Type: application/x-www-form-urlencoded")
	add("OPTIONS", "/v3/kv/range", "")
	add("OPTIONS", "/v3/nonsense", "")
}

// gatewayOwners asks for locks and elections; last, because ours may not have them.
func gatewayOwners(post, soon func(path string, bodies ...string)) {
	post("lease/grant", `{"TTL":100,"ID":21}`, `{"TTL":100,"ID":22}`)
	post("lock/lock", `{"name":"bA==","lease":"21"}`, `{"name":"bA==","lease":21}`, `{"name":"bA==","lease":999}`)
	soon("lock/lock", `{"name":"bA==","lease":"22"}`)
	post("lock/unlock", `{"key":"bC8xNQ=="}`, `{"key":"bC8xNQ=="}`, `{"key":5}`)
	post("election/campaign", `{"name":"ZQ==","lease":21,"value":"MQ=="}`, `{"name":"ZQ==","lease":21,"value":"Mg=="}`)
	post("election/leader", `{"name":"ZQ=="}`, `{"name":"eno="}`)
	soon("election/observe", `{"name":"ZQ=="}`, `{"name":"eno="}`)
	soon("election/campaign", `{"name":"ZQ==","lease":22,"value":"Mw=="}`)
	post("election/proclaim", `{"value":"MQ=="}`, `{"leader":{"name":"ZQ==","key":"ZS8xNQ==","rev":"1","lease":"21"},"value":"OQ=="}`)
	post("election/resign", `{"leader":{"name":"ZQ==","key":"ZS8xNQ==","rev":"1","lease":"21"}}`)
}
