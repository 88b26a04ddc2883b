package main

import (
	"io"
	"net"
	"net/http"
	"time"
)

// old takes the connections that agreed on HTTP/1.1: those for bearer tokens, as a rule.
type old struct {
	address net.Addr
	given   chan net.Conn
}

func newOld(address net.Addr) *old { return &old{address, make(chan net.Conn)} }

func (o *old) give(conn net.Conn)        { o.given <- conn }
func (o *old) Accept() (net.Conn, error) { return <-o.given, nil }
func (o *old) Close() error              { return nil }
func (o *old) Addr() net.Addr            { return o.address }

// serveOld answers as over HTTP/2; faults end the connection.
func (g *gateway) serveOld(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, window))
	if err != nil {
		return
	}
	one := &stream{
		method: []byte(r.Method), path: []byte(r.URL.Path), body: body,
		apnsID: []byte(r.Header.Get("apns-id")), authorized: r.Header.Get("authorization") != "",
	}
	how := g.now()
	time.Sleep(one.decide(g, &how, time.Now()))
	if one.device != nil {
		g.account.finish(one.device, one.answer.status, one.answer.reason, one.answer.fault)
	}
	if one.answer.fault != "" {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(one.answer.status)
	_, _ = w.Write(one.answer.body)
}
