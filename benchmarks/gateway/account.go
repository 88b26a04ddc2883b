package main

import (
	"hash/fnv"
	"strconv"
	"sync"
	"time"
)

// account is what arrived since the last reset, by device. A device is the number that its token
// ends on (hexadecimal for APNs, decimal for FCM) if it is one of those that are expected, and the
// hash of its token otherwise.
type account struct {
	mutex       sync.Mutex
	numbered    []device
	hashed      map[uint64]*device
	statuses    map[int]int
	reasons     map[string]int
	unanswered  map[string]int
	requests    int
	again       int // requests for a device that came before
	sameID      int // of those, the ones with the apns-id of the first
	delivered   int // devices that got a push
	duplicates  int // pushes that a device got beyond its first
	connections int
	first, last time.Time
}

type device struct {
	id        uint32 // a hash of the first apns-id
	requests  uint8
	delivered uint8
}

func newAccount(devices int) *account {
	a := &account{}
	a.reset(devices)
	return a
}

func (a *account) reset(devices int) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.numbered = make([]device, devices)
	a.hashed = map[uint64]*device{}
	a.statuses, a.reasons, a.unanswered = map[int]int{}, map[string]int{}, map[string]int{}
	a.requests, a.again, a.sameID, a.delivered, a.duplicates, a.connections = 0, 0, 0, 0, 0, 0
	a.first, a.last = time.Time{}, time.Time{}
}

func (a *account) find(token []byte, base int) *device {
	if number, ok := numberOf(token, base); ok && number < uint64(len(a.numbered)) {
		return &a.numbered[number]
	}
	key := fnv.New64a()
	_, _ = key.Write(token)
	found := a.hashed[key.Sum64()]
	if found == nil {
		found = &device{}
		a.hashed[key.Sum64()] = found
	}
	return found
}

func numberOf(token []byte, base int) (uint64, bool) {
	start := len(token)
	for start > 0 && len(token)-start < 15 && isDigit(token[start-1], base) {
		start--
	}
	number, err := strconv.ParseUint(string(token[start:]), base, 64)
	return number, err == nil
}

func isDigit(c byte, base int) bool {
	return c >= '0' && c <= '9' || base == 16 && (c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F')
}

// arrive notes a request, and returns the device and how often it came before.
func (a *account) arrive(token []byte, base int, id []byte, now time.Time) (*device, int) {
	sum := fnv.New32a()
	_, _ = sum.Write(id)
	a.mutex.Lock()
	defer a.mutex.Unlock()
	found := a.find(token, base)
	before := int(found.requests)
	a.requests++
	if before == 0 {
		found.id = sum.Sum32()
	} else {
		a.again++
		if found.id == sum.Sum32() {
			a.sameID++
		}
	}
	if found.requests < 255 {
		found.requests++
	}
	if a.first.IsZero() {
		a.first = now
	}
	a.last = now
	return found, before
}

// finish notes what became of a request: status 200 means that the device gets it; fault is why
// nobody was told, empty if somebody was.
func (a *account) finish(found *device, status int, reason, fault string) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.statuses[status]++
	if reason != "" {
		a.reasons[reason]++
	}
	if fault != "" {
		a.unanswered[fault]++
	}
	if status != 200 {
		return
	}
	if found.delivered == 0 {
		a.delivered++
	} else {
		a.duplicates++
	}
	if found.delivered < 255 {
		found.delivered++
	}
}

func (a *account) connected() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.connections++
}

// report has: requests, distinct devices, requests for a device that came before (again) and of
// those the ones with the same apns-id; devices that got a push and pushes beyond their first;
// requests by status (0: not processed), by reason, and by why nobody was told; connections made;
// the seconds between the first and the last request.
func (a *account) report() map[string]any {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return map[string]any{
		"requests": a.requests, "distinct": a.requests - a.again, "again": a.again, "same_id": a.sameID,
		"delivered": a.delivered, "duplicates": a.duplicates, "unexpected": len(a.hashed),
		"statuses": a.statuses, "reasons": a.reasons, "unanswered": a.unanswered,
		"connections": a.connections, "seconds": a.last.Sub(a.first).Seconds(),
	}
}

// missing returns the first numbers that got no push.
func (a *account) missing(limit int) []int {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	found := []int{}
	for number := range a.numbered {
		if len(found) >= limit {
			break
		}
		if a.numbered[number].delivered == 0 {
			found = append(found, number)
		}
	}
	return found
}
