package main

import "bytes"

// account is what came since the last reset.
type account struct {
	seen                                  []bool
	requests, documents                   int
	distinct, repeated, strange           int
	withID, matchingID, largest, smallest int
}

func newAccount(numbers int) *account {
	return &account{seen: make([]bool, numbers)}
}

func (a *account) add(actions []action, documents [][]byte) {
	a.requests++
	a.documents += len(documents)
	if a.smallest == 0 || len(documents) < a.smallest {
		a.smallest = len(documents)
	}
	a.largest = max(a.largest, len(documents))
	for n, document := range documents {
		if id := actions[n].id; id != nil {
			a.withID++
			if bytes.Equal(id, documentID(document)) {
				a.matchingID++
			}
		}
		switch at := number(document); {
		case at < 0 || at >= len(a.seen):
			a.strange++
		case a.seen[at]:
			a.repeated++
		default:
			a.seen[at] = true
			a.distinct++
		}
	}
}

// report has: requests, documents, of these distinct numbers, numbers that came again, documents
// without a number that was expected; those with an _id, and with the _id of their body; the
// documents of the largest and of the smallest request.
func (a *account) report() map[string]int {
	return map[string]int{
		"requests": a.requests, "documents": a.documents, "distinct": a.distinct,
		"repeated": a.repeated, "strange": a.strange, "with_id": a.withID, "matching_id": a.matchingID,
		"largest": a.largest, "smallest": a.smallest,
	}
}
