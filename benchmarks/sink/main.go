// A server that answers as Elasticsearch does and keeps nothing: what is measured against it is
// the consumer alone. It answers _bulk honestly, one item for each action and of each item the
// fields that filter_path asks for, and accounts for what came: each document's number, and whether
// its _id is the id that stands in its body.
//
// GET /_bench/account returns the account, POST /_bench/reset?numbers=N begins a new one.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

const version = "9.5.3"

func main() {
	address := flag.String("listen", "127.0.0.1:0", "where to listen")
	flag.Parse()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	server := &sink{account: newAccount(0)}
	fmt.Fprintln(os.Stderr, http.Serve(listener, server))
	os.Exit(1)
}

type sink struct {
	mutex   sync.Mutex
	account *account
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	// the clients of other major versions insist on their own type
	if accept := r.Header.Get("Accept"); strings.HasPrefix(accept, "application/vnd.elasticsearch+json") {
		w.Header().Set("Content-Type", accept)
	} else {
		w.Header().Set("Content-Type", "application/json")
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case strings.HasSuffix(path, "/_bulk") || path == "/_bulk":
		s.bulk(w, r, path)
	case path == "":
		fmt.Fprintf(w, `{"name":"sink","cluster_name":"sink","cluster_uuid":"AAAAAAAAAAAAAAAAAAAAAA","version":{"number":%q,`+
			`"build_flavor":"default","build_type":"tar","build_hash":"0","build_date":"2026-01-01T00:00:00Z",`+
			`"build_snapshot":false,"lucene_version":"10.0.0","minimum_wire_compatibility_version":"8.19.0",`+
			`"minimum_index_compatibility_version":"8.0.0"},"tagline":"You Know, for Search"}`, version)
	case path == "/_bench/account":
		s.mutex.Lock()
		defer s.mutex.Unlock()
		_ = json.NewEncoder(w).Encode(s.account.report())
	case path == "/_bench/reset":
		var numbers int
		_, _ = fmt.Sscan(r.URL.Query().Get("numbers"), &numbers)
		s.mutex.Lock()
		defer s.mutex.Unlock()
		s.account = newAccount(numbers)
		_, _ = io.WriteString(w, "{}")
	case strings.HasPrefix(path, "/_cluster/health"):
		_, _ = io.WriteString(w, `{"cluster_name":"sink","status":"green","timed_out":false}`)
	case strings.HasSuffix(path, "/_mget"):
		_, _ = io.WriteString(w, `{"docs":[]}`)
	default:
		_, _ = io.WriteString(w, `{"acknowledged":true}`)
	}
}

func (s *sink) bulk(w http.ResponseWriter, r *http.Request, path string) {
	body := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(body)
	body.Reset()
	if err := read(body, r); err != nil {
		http.Error(w, `{"error":{"type":"parse_exception"},"status":400}`, http.StatusBadRequest)
		return
	}
	items, err := s.take(body.Bytes())
	if err != nil {
		http.Error(w, fmt.Sprintf(`{"error":{"type":"illegal_argument_exception","reason":%q},"status":400}`, err),
			http.StatusBadRequest)
		return
	}
	out := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(out)
	out.Reset()
	index := strings.Trim(strings.TrimSuffix(path, "/_bulk"), "/")
	answer(out, items, parseFilter(r.URL.Query().Get("filter_path")), index)
	_, _ = w.Write(out.Bytes())
}

func read(body *bytes.Buffer, r *http.Request) error {
	var from io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		inflated, err := gzip.NewReader(r.Body)
		if err != nil {
			return err
		}
		from = inflated
	}
	_, err := body.ReadFrom(from)
	return err
}

// take accounts for all documents of a request, or for none.
func (s *sink) take(body []byte) ([]action, error) {
	actions := make([]action, 0, 1000)
	documents := make([][]byte, 0, 1000)
	for len(body) > 0 {
		var line []byte
		if line, body = cut(body); len(line) == 0 {
			continue
		}
		found, err := readAction(line)
		if err != nil {
			return nil, err
		}
		if len(body) == 0 {
			return nil, fmt.Errorf("an action without its document")
		}
		line, body = cut(body)
		actions, documents = append(actions, found), append(documents, line)
	}
	if len(actions) == 0 {
		return nil, fmt.Errorf("an empty request")
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.account.add(actions, documents)
	return actions, nil
}

func cut(body []byte) (line, rest []byte) {
	end := bytes.IndexByte(body, '\n')
	if end < 0 {
		return body, nil
	}
	return bytes.TrimSuffix(body[:end], []byte("\r")), body[end+1:]
}
