package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"
)

var (
	apnsPath  = []byte("/3/device/")
	fcmPath   = []byte("/v1/projects/")
	fcmVerb   = []byte("/messages:send")
	tokenPath = []byte("/token")
	fcmName   = []byte(`"token":"`)
)

const largest = 5120

// decide finds the device and the answer, and returns the latency.
func (one *stream) decide(g *gateway, how *behaviour, now time.Time) time.Duration {
	switch {
	case bytes.HasPrefix(one.path, apnsPath):
		return one.decideApns(g, how, now)
	case bytes.HasPrefix(one.path, fcmPath) && bytes.HasSuffix(one.path, fcmVerb):
		return one.decideFcm(g, how, now)
	case bytes.Equal(one.path, tokenPath):
		one.base, one.answer = 10, answer{status: 200, body: bearer()}
	default:
		one.answer = answer{status: 404, reason: "BadPath", body: []byte(`{"reason":"BadPath"}`)}
	}
	return 0
}

func (one *stream) decideApns(g *gateway, how *behaviour, now time.Time) time.Duration {
	token := one.path[len(apnsPath):]
	if len(one.apnsID) == 0 {
		one.apnsID = newID()
	}
	if len(token) == 0 { // how a sender tries its connection; nobody's push
		one.answer = answer{status: 400, reason: "MissingDeviceToken", body: []byte(`{"reason":"MissingDeviceToken"}`)}
		return 0
	}
	reason := ""
	switch {
	case string(one.method) != "POST":
		reason = "MethodNotAllowed"
	case len(token) < 64 || len(token)%2 == 1 || !isHex(token):
		reason = "BadDeviceToken"
	case len(one.body) == 0:
		reason = "PayloadEmpty"
	case len(one.body) > largest:
		reason = "PayloadTooLarge"
	}
	one.base = 16
	found, before := g.account.arrive(token, one.base, one.apnsID, now)
	one.device = found
	if reason != "" {
		one.answer = answer{status: apnsReasons[reason], reason: reason}
	} else {
		one.draw(how.draw(how.apns, token, before), how)
	}
	if one.answer.reason != "" {
		one.answer.body = apnsBody(one.answer, now)
	}
	return how.delay(token, before)
}

func (one *stream) decideFcm(g *gateway, how *behaviour, now time.Time) time.Duration {
	token := fcmToken(one.body)
	reason := ""
	if string(one.method) != "POST" || len(token) == 0 {
		reason = "INVALID_ARGUMENT"
	} else if !one.authorized {
		reason = "UNAUTHENTICATED"
	}
	one.base = 10
	found, before := g.account.arrive(token, one.base, nil, now)
	one.device = found
	if reason != "" {
		one.answer = answer{status: fcmReasons[reason], reason: reason}
	} else {
		one.draw(how.draw(how.fcm, token, before), how)
	}
	if one.answer.reason != "" {
		one.answer.body = fcmBody(one.answer)
	} else {
		one.answer.body = fmt.Appendf(nil, `{"name":"%s/messages/0:%d"}`, one.path[len("/v1/"):len(one.path)-len(fcmVerb)], now.UnixNano())
	}
	return how.delay(token, before)
}

// draw takes what was drawn: a reason, a fault, or nothing, which is success.
func (one *stream) draw(drawn *share, how *behaviour) {
	switch {
	case drawn == nil:
		one.answer = answer{status: 200}
	case drawn.status > 0:
		one.answer = answer{status: drawn.status, reason: drawn.word}
		if drawn.status == 429 || drawn.status == 503 {
			one.answer.retry = how.RetryAfter
		}
	case drawn.processed:
		one.answer = answer{status: 200, fault: drawn.word}
	default:
		one.answer = answer{fault: drawn.word}
	}
}

func (one *stream) writeHeaders(to *hpack.Encoder) {
	write := func(name, value string) { _ = to.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	write(":status", strconv.Itoa(one.answer.status))
	if one.base == 10 {
		write("content-type", "application/json; charset=UTF-8")
	} else if len(one.apnsID) > 0 {
		// new each time: it would only push the others out of the table
		_ = to.WriteField(hpack.HeaderField{Name: "apns-id", Value: string(one.apnsID), Sensitive: true})
	}
	if one.answer.retry > 0 {
		write("retry-after", strconv.Itoa(one.answer.retry))
	}
}

func apnsBody(told answer, now time.Time) []byte {
	if told.status == 410 {
		return fmt.Appendf(nil, `{"reason":%q,"timestamp":%d}`, told.reason, now.UnixMilli())
	}
	return fmt.Appendf(nil, `{"reason":%q}`, told.reason)
}

var fcmStatuses = map[int]string{
	400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
	429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
}

func fcmBody(told answer) []byte {
	return fmt.Appendf(nil, `{"error":{"code":%d,"message":%q,"status":%q,"details":[{"@type":`+
		`"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":%q}]}}`,
		told.status, told.reason, fcmStatuses[told.status], told.reason)
}

// fcmToken finds the token without reading all of the JSON; white space as json.dumps has it.
func fcmToken(body []byte) []byte {
	at := bytes.Index(body, fcmName)
	if at >= 0 {
		at += len(fcmName)
	} else if at = bytes.Index(body, []byte(`"token": "`)); at >= 0 {
		at += len(fcmName) + 1
	} else {
		return nil
	}
	end := bytes.IndexByte(body[at:], '"')
	if end < 0 {
		return nil
	}
	return body[at : at+end]
}

func isHex(token []byte) bool {
	for _, c := range token {
		if !isDigit(c, 16) {
			return false
		}
	}
	return true
}

func newID() []byte {
	var made [16]byte
	_, _ = rand.Read(made[:])
	return fmt.Appendf(nil, "%X-%X-%X-%X-%X", made[:4], made[4:6], made[6:8], made[8:10], made[10:])
}

func bearer() []byte {
	return fmt.Appendf(nil, `{"access_token":"ya29.%s","expires_in":3599,"token_type":"Bearer"}`, newID())
}
