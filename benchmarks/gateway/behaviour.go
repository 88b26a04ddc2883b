package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"sort"
	"strings"
	"time"
)

// behaviour is what the gateway does with requests. Shares are by reason or fault; a fault is rst,
// silence, goaway or drop, with a + behind it if the device gets the push nevertheless.
type behaviour struct {
	Latency    duration           `json:"latency"`
	Jitter     duration           `json:"jitter"` // at most so much more than the latency
	Streams    uint32             `json:"streams"`
	First      uint32             `json:"first_streams"` // until the first request with a token
	RetryAfter int                `json:"retry_after"`   // seconds, with 429 and 503; 0: not told
	Seed       uint64             `json:"seed"`
	Apns       map[string]float64 `json:"apns"`
	Fcm        map[string]float64 `json:"fcm"`
	apns, fcm  []share
}

// share is one part of [0, 1): what is drawn below upTo, and not by the one before, is its.
type share struct {
	upTo      float64
	word      string // reason or fault
	status    int    // 0 for a fault
	processed bool
}

type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err == nil && parsed < 0 {
		err = fmt.Errorf("%s is negative", text)
	}
	*d = duration(parsed)
	return err
}

var faults = map[string]bool{"rst": true, "silence": true, "goaway": true, "drop": true}

var apnsReasons = map[string]int{
	"BadDeviceToken": 400, "BadTopic": 400, "DeviceTokenNotForTopic": 400, "PayloadEmpty": 400, "TopicDisallowed": 400,
	"ExpiredProviderToken": 403, "Forbidden": 403, "InvalidProviderToken": 403, "MissingProviderToken": 403,
	"BadPath": 404, "MethodNotAllowed": 405, "ExpiredToken": 410, "Unregistered": 410, "PayloadTooLarge": 413,
	"TooManyProviderTokenUpdates": 429, "TooManyRequests": 429,
	"InternalServerError": 500, "ServiceUnavailable": 503, "Shutdown": 503,
}

var fcmReasons = map[string]int{
	"INVALID_ARGUMENT": 400, "THIRD_PARTY_AUTH_ERROR": 401, "UNAUTHENTICATED": 401, "SENDER_ID_MISMATCH": 403,
	"UNREGISTERED": 404, "QUOTA_EXCEEDED": 429, "INTERNAL": 500, "UNAVAILABLE": 503,
}

func usual() behaviour {
	return behaviour{Streams: 1000, First: 1, Apns: map[string]float64{}, Fcm: map[string]float64{}}
}

func (b behaviour) copied() behaviour {
	b.Apns, b.Fcm = copied(b.Apns), copied(b.Fcm)
	return b
}

func copied(from map[string]float64) map[string]float64 {
	to := make(map[string]float64, len(from))
	for name, value := range from {
		to[name] = value
	}
	return to
}

// load takes JSON over what stands; shares of a gateway are replaced as a whole.
func (b *behaviour) load(given []byte) error {
	fresh := *b
	fresh.Apns, fresh.Fcm = nil, nil
	decoder := json.NewDecoder(bytes.NewReader(given))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&fresh); err != nil {
		return fmt.Errorf("behaviour: %w", err)
	}
	if fresh.Apns == nil {
		fresh.Apns = b.Apns
	}
	if fresh.Fcm == nil {
		fresh.Fcm = b.Fcm
	}
	var err error
	if fresh.apns, err = stacked(fresh.Apns, apnsReasons); err != nil {
		return err
	}
	if fresh.fcm, err = stacked(fresh.Fcm, fcmReasons); err != nil {
		return err
	}
	*b = fresh
	return nil
}

func stacked(shares map[string]float64, reasons map[string]int) ([]share, error) {
	words := make([]string, 0, len(shares))
	for word := range shares {
		words = append(words, word)
	}
	sort.Strings(words)
	made, top := make([]share, 0, len(words)), 0.0
	for _, word := range words {
		name, processed := strings.CutSuffix(word, "+")
		status := reasons[name]
		if status == 0 && !faults[name] || status != 0 && processed {
			return nil, fmt.Errorf("behaviour: no reason or fault %q", word)
		}
		if shares[word] < 0 || top+shares[word] > 1 {
			return nil, fmt.Errorf("behaviour: the shares up to %q are not within 0 and 1", word)
		}
		top += shares[word]
		made = append(made, share{top, name, status, processed})
	}
	return made, nil
}

// draw says what happens to a request: by seed, token and how often it came before, so that it does
// not hang on the order of arrival.
func (b *behaviour) draw(shares []share, token []byte, attempt int) *share {
	if len(shares) == 0 {
		return nil
	}
	at := float64(b.hash(token, attempt)>>11) / (1 << 53)
	for n := range shares {
		if at < shares[n].upTo {
			return &shares[n]
		}
	}
	return nil
}

func (b *behaviour) delay(token []byte, attempt int) time.Duration {
	if b.Jitter == 0 {
		return time.Duration(b.Latency)
	}
	return time.Duration(b.Latency) + time.Duration(b.hash(token, attempt+1<<20)%uint64(b.Jitter))
}

func (b *behaviour) hash(token []byte, attempt int) uint64 {
	sum := fnv.New64a()
	_, _ = sum.Write(token)
	// FNV alone spreads its last bytes too little
	mixed := sum.Sum64() ^ (b.Seed+1)*0x9e3779b97f4a7c15 ^ uint64(attempt)*0xd6e8feb86659fd93
	mixed = (mixed ^ mixed>>30) * 0xbf58476d1ce4e5b9
	mixed = (mixed ^ mixed>>27) * 0x94d049bb133111eb
	return mixed ^ mixed>>31
}

func readFull(from io.Reader, into []byte) (int, error) {
	size, err := io.ReadFull(from, into)
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = nil
	}
	return size, err
}
