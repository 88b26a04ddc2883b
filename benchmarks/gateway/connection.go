package main

import (
	"bufio"
	"bytes"
	"container/heap"
	"crypto/tls"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	window   = 65535
	linger   = 5 * time.Second // for the client to read what was answered: what is closed with something unread is reset
	noLimit  = 1<<31 - 1
	tableMax = 4096
)

// connection reads frames in one goroutine and writes answers in another, when they are due.
type connection struct {
	gateway *gateway
	conn    *tls.Conn
	reader  *http2.Framer
	decoder *hpack.Decoder
	current *stream // whose headers are being read
	taken   uint32  // bytes of the client's window that it has not got back

	mutex   sync.Mutex // over what stands below
	out     *bufio.Writer
	writer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	streams map[uint32]*stream
	due     queue
	wake    chan struct{}
	room    int64 // of the client's window for answers
	limit   uint32
	limits  []uint32 // announced and not acknowledged
	told    uint32
	trusted bool
	highest uint32
	cutoff  uint32 // streams above are not cared for
	ending  bool   // GOAWAY is written
	leaving bool   // and all is answered
	closed  bool
}

type stream struct {
	id         uint32
	method     []byte
	path       []byte
	apnsID     []byte
	authorized bool
	ended      bool // with its headers
	body       []byte
	base       int // of the number in its token
	device     *device
	answer     answer
	at         time.Time
}

type answer struct {
	status int
	reason string
	body   []byte
	fault  string // instead of an answer
	retry  int
}

func newConnection(g *gateway, conn *tls.Conn) *connection {
	c := &connection{
		gateway: g, conn: conn, streams: map[uint32]*stream{}, wake: make(chan struct{}, 1),
		room: window, limit: noLimit, cutoff: noLimit, out: bufio.NewWriterSize(conn, 1<<16),
	}
	c.reader = http2.NewFramer(nil, bufio.NewReaderSize(conn, 1<<16))
	c.reader.SetReuseFrames()
	c.writer = http2.NewFramer(c.out, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(tableMax, c.header)
	return c
}

func (c *connection) serve() {
	defer c.end()
	first := c.gateway.now().First
	c.mutex.Lock()
	c.told, c.limits = first, []uint32{first}
	_ = c.writer.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: first},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: window},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384},
	)
	_ = c.out.Flush()
	c.mutex.Unlock()
	c.gateway.account.connected()
	c.gateway.mutex.Lock()
	c.gateway.open[c] = struct{}{}
	c.gateway.mutex.Unlock()
	go c.write()
	preface := make([]byte, len(http2.ClientPreface))
	if size, _ := readFull(c.conn, preface); string(preface[:size]) != http2.ClientPreface {
		return
	}
	for {
		frame, err := c.reader.ReadFrame()
		if err != nil || !c.take(frame) {
			return
		}
	}
}

// end gives up what is open: what was decided is delivered, though nobody was told.
func (c *connection) end() {
	c.gateway.mutex.Lock()
	delete(c.gateway.open, c)
	c.gateway.mutex.Unlock()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.closed = true
	for _, one := range c.streams {
		if one.device != nil {
			c.gateway.account.finish(one.device, one.answer.status, one.answer.reason, "lost")
		}
	}
	c.streams = map[uint32]*stream{}
	_ = c.conn.Close()
	c.nudge()
}

func (c *connection) take(frame http2.Frame) bool {
	switch f := frame.(type) {
	case *http2.HeadersFrame:
		c.current = &stream{id: f.StreamID, ended: f.StreamEnded()}
		return c.headers(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		return c.headers(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		return c.data(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mutex.Lock()
			defer c.mutex.Unlock()
			return c.writer.WritePing(true, f.Data) == nil && c.out.Flush() == nil
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.mutex.Lock()
			c.room += int64(f.Increment)
			c.mutex.Unlock()
			c.nudge()
		}
	case *http2.RSTStreamFrame:
		c.mutex.Lock()
		if one := c.streams[f.StreamID]; one != nil {
			c.forget(one, "cancelled")
		}
		c.mutex.Unlock()
	case *http2.GoAwayFrame:
		return false
	}
	return true
}

func (c *connection) header(field hpack.HeaderField) {
	switch field.Name {
	case ":method":
		c.current.method = []byte(field.Value)
	case ":path":
		c.current.path = []byte(field.Value)
	case "apns-id":
		c.current.apnsID = []byte(field.Value)
	case "authorization":
		c.current.authorized = true
	}
}

func (c *connection) headers(block []byte, last bool) bool {
	if _, err := c.decoder.Write(block); err != nil {
		return false
	}
	if !last {
		return true
	}
	if err := c.decoder.Close(); err != nil {
		return false
	}
	one := c.current
	c.mutex.Lock()
	c.highest = one.id
	if one.id > c.cutoff {
		c.mutex.Unlock()
		return true
	}
	if uint32(len(c.streams)) >= c.limit {
		err := c.writer.WriteRSTStream(one.id, http2.ErrCodeRefusedStream)
		_ = c.out.Flush()
		c.mutex.Unlock()
		return err == nil
	}
	c.streams[one.id] = one
	c.mutex.Unlock()
	if one.ended {
		c.judge(one)
	}
	return true
}

func (c *connection) data(f *http2.DataFrame) bool {
	c.taken += f.Length
	c.mutex.Lock()
	one := c.streams[f.StreamID]
	if c.taken > window/2 {
		_ = c.writer.WriteWindowUpdate(0, c.taken)
		_ = c.out.Flush()
		c.taken = 0
	}
	c.mutex.Unlock()
	if one == nil {
		return true
	}
	one.body = append(one.body, f.Data()...)
	if len(one.body) > window {
		return false // it would have to wait for a window that it does not get
	}
	if f.StreamEnded() {
		c.judge(one)
	}
	return true
}

func (c *connection) settings(f *http2.SettingsFrame) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if f.IsAck() {
		if len(c.limits) > 0 {
			c.limit, c.limits = c.limits[0], c.limits[1:]
		}
		return true
	}
	if size, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.encoder.SetMaxDynamicTableSizeLimit(min(size, tableMax))
	}
	return c.writer.WriteSettingsAck() == nil && c.out.Flush() == nil
}

// judge decides on a complete request; its answer is due after the latency.
func (c *connection) judge(one *stream) {
	now := time.Now()
	how := c.gateway.now()
	delay := one.decide(c.gateway, &how, now)
	one.at = now.Add(delay)
	c.mutex.Lock()
	if one.authorized && !c.trusted {
		c.trusted = true
		c.tellLimit(how.Streams)
	}
	heap.Push(&c.due, one)
	first := c.due[0] == one
	c.mutex.Unlock()
	if first {
		c.nudge()
	}
}

func (c *connection) announce(limit uint32) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.trusted && !c.ending {
		c.tellLimit(limit)
	}
}

func (c *connection) tellLimit(limit uint32) {
	if limit == c.told {
		return
	}
	c.told, c.limits = limit, append(c.limits, limit)
	_ = c.writer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: limit})
	_ = c.out.Flush()
}

func (c *connection) last() uint32 {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.highest
}

func (c *connection) goaway(last uint32) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.say(last)
	c.nudge()
}

// say writes GOAWAY: streams above are not processed, the others are answered before the end.
func (c *connection) say(last uint32) {
	if c.ending {
		return
	}
	c.ending, c.cutoff = true, last
	_ = c.writer.WriteGoAway(last, http2.ErrCodeNo, []byte(`{"reason":"Shutdown"}`))
	for id, one := range c.streams {
		if id > last {
			one.answer.status, one.answer.reason = 0, ""
			c.forget(one, "goaway")
		}
	}
	_ = c.out.Flush() // accounted for before it is told
}

func (c *connection) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write answers what is due, all in one go, until the connection ends.
func (c *connection) write() {
	timer := time.NewTimer(time.Hour)
	for {
		wait, going := c.answerDue()
		if !going {
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-c.wake:
		}
	}
}

func (c *connection) answerDue() (wait time.Duration, going bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closed {
		return 0, false
	}
	defer c.out.Flush()
	now := time.Now()
	wait = time.Hour
	for len(c.due) > 0 {
		one := c.due[0]
		// not a wake-up for each: what is due within a moment goes along
		if left := one.at.Sub(now); left > time.Millisecond/2 {
			wait = left
			break
		}
		if int64(len(one.answer.body)) > c.room && c.streams[one.id] == one {
			break // until the client opens its window
		}
		heap.Pop(&c.due)
		if c.streams[one.id] == one {
			c.finish(one)
		}
	}
	if c.ending && len(c.streams) == 0 && !c.leaving {
		c.leaving = true
		_ = c.out.Flush()
		_ = c.conn.CloseWrite()
		time.AfterFunc(linger, func() { _ = c.conn.Close() })
	}
	return wait, true
}

func (c *connection) finish(one *stream) {
	told := one.answer
	switch told.fault {
	case "silence":
		return // it stays open for as long as the connection lives
	case "rst":
		c.forget(one, told.fault)
		_ = c.writer.WriteRSTStream(one.id, http2.ErrCodeInternal)
		return
	case "drop":
		c.forget(one, told.fault)
		_ = c.conn.NetConn().Close()
		return
	case "goaway":
		if told.status == 0 {
			c.say(one.id - 2)
			return
		}
		c.say(one.id)
	}
	c.forget(one, "")
	c.block.Reset()
	one.writeHeaders(c.encoder)
	_ = c.writer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: one.id, BlockFragment: c.block.Bytes(), EndStream: len(told.body) == 0, EndHeaders: true,
	})
	if len(told.body) > 0 {
		c.room -= int64(len(told.body))
		_ = c.writer.WriteData(one.id, true, told.body)
	}
}

// forget takes a stream off those that are open, and accounts for it.
func (c *connection) forget(one *stream, fault string) {
	delete(c.streams, one.id)
	if one.device != nil {
		c.gateway.account.finish(one.device, one.answer.status, one.answer.reason, fault)
	}
}

// queue has what is due first in front.
type queue []*stream

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(one any)      { *q = append(*q, one.(*stream)) }

func (q *queue) Pop() any {
	last := len(*q) - 1
	one := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return one
}
