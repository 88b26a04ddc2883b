// A gateway of pushes for load: APNs and FCM over HTTP/2, framed by hand so that it costs little
// beside what is measured. It answers as both do, keeps no push, and accounts for what arrived.
//
// It prints one line of JSON when it listens: url, ca, the keys that a sender needs, and control.
// Control is plain HTTP on a loopback port of its own: GET /account, GET /missing?limit=10,
// POST /reset?devices=2000000, GET and PUT /behaviour, POST /goaway.
//
// It verifies no token: the simulators in aggregator/testing/gateways do.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
)

type gateway struct {
	account   *account
	mutex     sync.Mutex // over what stands below
	behaviour behaviour
	open      map[*connection]struct{}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	control := flag.String("control", "127.0.0.1:0", "where to listen for control")
	folder := flag.String("folder", "", "where keys and certificates go; a temporary one if not given")
	devices := flag.Int("devices", 0, "how many device numbers are expected; others are told apart by hash")
	given := flag.String("behaviour", "{}", "JSON as PUT /behaviour takes it")
	flag.Parse()
	g := &gateway{account: newAccount(*devices), open: map[*connection]struct{}{}, behaviour: usual()}
	check(g.behaviour.load([]byte(*given)))
	if *folder == "" {
		made, err := os.MkdirTemp("", "gateway-")
		check(err)
		*folder = made
	}
	listener, err := net.Listen("tcp", *listen)
	check(err)
	controls, err := net.Listen("tcp", *control)
	check(err)
	url := "https://" + listener.Addr().String()
	certificate, ready := makeKeys(*folder, url)
	ready["url"], ready["control"] = url, "http://"+controls.Addr().String()
	go func() { check(http.Serve(controls, g.controls())) }()
	old := newOld(listener.Addr())
	go func() { check(http.Serve(old, http.HandlerFunc(g.serveOld))) }()
	line, _ := json.Marshal(ready)
	fmt.Println(string(line))
	settings := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{"h2", "http/1.1"},
		ClientAuth:   tls.RequestClientCert,
	}
	for {
		raw, err := listener.Accept()
		check(err)
		go g.welcome(tls.Server(raw, settings), old)
	}
}

func (g *gateway) welcome(conn *tls.Conn, old *old) {
	if err := conn.Handshake(); err != nil {
		_ = conn.Close()
		return
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		old.give(conn)
		return
	}
	newConnection(g, conn).serve()
}

func (g *gateway) now() behaviour {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.behaviour
}

func (g *gateway) controls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /account", func(w http.ResponseWriter, _ *http.Request) { tell(w, g.account.report()) })
	mux.HandleFunc("GET /missing", func(w http.ResponseWriter, r *http.Request) {
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil {
			limit = 10
		}
		tell(w, g.account.missing(limit))
	})
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, r *http.Request) {
		devices, err := strconv.Atoi(r.URL.Query().Get("devices"))
		if err != nil || devices < 0 {
			http.Error(w, "devices=N is needed, a number from 0", http.StatusBadRequest)
			return
		}
		g.account.reset(devices)
		tell(w, struct{}{})
	})
	mux.HandleFunc("GET /behaviour", func(w http.ResponseWriter, _ *http.Request) { tell(w, g.now()) })
	mux.HandleFunc("PUT /behaviour", func(w http.ResponseWriter, r *http.Request) {
		if err := g.change(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		tell(w, g.now())
	})
	mux.HandleFunc("POST /goaway", func(w http.ResponseWriter, _ *http.Request) {
		for _, one := range g.connections() {
			one.goaway(one.last())
		}
		tell(w, struct{}{})
	})
	return mux
}

// change takes new behaviour; what is not named stays as it was.
func (g *gateway) change(r *http.Request) error {
	body := make([]byte, 1<<16)
	size, _ := readFull(r.Body, body)
	g.mutex.Lock()
	changed := g.behaviour.copied()
	err := changed.load(body[:size])
	if err == nil {
		g.behaviour = changed
	}
	g.mutex.Unlock()
	if err == nil {
		for _, one := range g.connections() {
			one.announce(changed.Streams)
		}
	}
	return err
}

func (g *gateway) connections() []*connection {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	found := make([]*connection, 0, len(g.open))
	for one := range g.open {
		found = append(found, one)
	}
	return found
}

func tell(w http.ResponseWriter, content any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(content)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
