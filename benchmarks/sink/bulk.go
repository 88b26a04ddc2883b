package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// action is the first line of an item: {"create":{"_id":"a","_index":"b"}}.
type action struct {
	op string // create, index, …
	id []byte // as it stands between its quotes; nil if none was sent
}

var idKey, numberKey, documentIDKey = []byte(`"_id":`), []byte(`"number":`), []byte(`"id":`)

// readAction reads an action line without decoding all of it.
func readAction(line []byte) (action, error) {
	start := bytes.IndexByte(line, '"')
	if start < 0 {
		return action{}, errors.New("an action line without a word")
	}
	end := bytes.IndexByte(line[start+1:], '"')
	if end < 0 {
		return action{}, errors.New("an action line that is cut")
	}
	found := action{op: operation(line[start+1 : start+1+end])}
	if found.op == "" {
		return action{}, fmt.Errorf("unknown operation in %.40q", line)
	}
	if at := bytes.Index(line, idKey); at >= 0 {
		if value := text(line[at+len(idKey):]); len(value) > 0 {
			found.id = value
		}
	}
	return found, nil
}

// operation returns a constant, so that no text is allocated for each item.
func operation(word []byte) string {
	switch string(word) {
	case "create":
		return "create"
	case "index":
		return "index"
	}
	return ""
}

// text returns what stands between the next two quotes; escaped quotes belong to it.
func text(from []byte) []byte {
	from = bytes.TrimLeft(from, " ")
	if len(from) == 0 || from[0] != '"' {
		return nil
	}
	for end := 1; end < len(from); end++ {
		switch from[end] {
		case '\\':
			end++
		case '"':
			return from[1:end]
		}
	}
	return nil
}

// number returns the document's number, or -1.
func number(document []byte) int {
	at := bytes.Index(document, numberKey)
	if at < 0 {
		return -1
	}
	value, digits := 0, 0
	for _, c := range bytes.TrimLeft(document[at+len(numberKey):], " ") {
		if c < '0' || c > '9' {
			break
		}
		value, digits = value*10+int(c-'0'), digits+1
	}
	if digits == 0 {
		return -1
	}
	return value
}

// documentID returns the document's own id, nil if it has none.
func documentID(document []byte) []byte {
	at := bytes.Index(document, documentIDKey)
	if at < 0 {
		return nil
	}
	return text(document[at+len(documentIDKey):])
}

// fields says which parts of the answer were asked for by filter_path.
type fields struct {
	took, errors, id, status, rest bool
}

// parseFilter reads filter_path; empty asks for everything.
func parseFilter(path string) fields {
	if path == "" {
		return fields{true, true, true, true, true}
	}
	var wanted fields
	for _, one := range strings.Split(path, ",") {
		parts := strings.Split(one, ".")
		switch {
		case one == "took":
			wanted.took = true
		case one == "errors":
			wanted.errors = true
		case parts[0] != "items":
		case len(parts) < 3 || parts[2] == "*":
			wanted.id, wanted.status, wanted.rest = true, true, true
		case parts[2] == "_id":
			wanted.id = true
		case parts[2] == "status":
			wanted.status = true
		}
	}
	return wanted
}

// answer writes one item for each action: those of their fields that were asked for.
func answer(out *bytes.Buffer, actions []action, wanted fields, index string) {
	out.WriteByte('{')
	if wanted.took {
		out.WriteString(`"took":1,`)
	}
	if wanted.errors {
		out.WriteString(`"errors":false,`)
	}
	if wanted.id || wanted.status {
		out.WriteString(`"items":[`)
		for n := range actions {
			answerItem(out, n, &actions[n], wanted, index)
		}
		out.Truncate(out.Len() - 1)
		out.WriteString("],")
	}
	if out.Len() > 1 {
		out.Truncate(out.Len() - 1)
	}
	out.WriteByte('}')
}

func answerItem(out *bytes.Buffer, n int, item *action, wanted fields, index string) {
	out.WriteString(`{"`)
	out.WriteString(item.op)
	out.WriteString(`":{`)
	if wanted.rest {
		out.WriteString(`"_index":"`)
		out.WriteString(index)
		out.WriteString(`",`)
	}
	if wanted.id {
		out.WriteString(`"_id":"`)
		if item.id == nil {
			fmt.Fprintf(out, "made-%015d", n)
		} else {
			out.Write(item.id)
		}
		out.WriteString(`",`)
	}
	if wanted.rest {
		out.WriteString(`"_version":1,"result":"created","_shards":{"total":1,"successful":1,"failed":0},"_seq_no":`)
		out.WriteString(strconv.Itoa(n))
		out.WriteString(`,"_primary_term":1,`)
	}
	if wanted.status {
		out.WriteString(`"status":201,`)
	}
	out.Truncate(out.Len() - 1)
	out.WriteString("}},")
}
