package main

// How answers are written: tables for people, JSON in protobuf's mapping (as cri-tools prints it) for programs.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/golang/protobuf/jsonpb"
	"github.com/golang/protobuf/proto"
)

// shortID is how much of an id one needs to type: containerd's ids are random, 13 characters never collide.
const shortID = 13

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > shortID {
		return id[:shortID]
	}
	return id
}

// marshal writes a message with enums by name and default values present, so that `false` can be told from "not said".
func marshal(message proto.Message) (json.RawMessage, error) {
	var out bytes.Buffer
	m := jsonpb.Marshaler{EmitDefaults: true}
	if err := m.Marshal(&out, message); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func printJSON(value interface{}) error {
	if message, ok := value.(proto.Message); ok {
		raw, err := marshal(message)
		if err != nil {
			return err
		}
		value = raw
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(value)
}

// printWithInfo prints a status next to the runtime's verbose answers; those are JSON in strings, and unfolded here.
func printWithInfo(status proto.Message, info map[string]string) error {
	raw, err := marshal(status)
	if err != nil {
		return err
	}
	answer := map[string]interface{}{"status": raw}
	for key, text := range info {
		if json.Valid([]byte(text)) {
			answer[key] = json.RawMessage(text)
		} else {
			answer[key] = text
		}
	}
	return printJSON(answer)
}

// checkFormat refuses a format before anything is asked of the runtime.
func checkFormat(format string) error {
	if format != "table" && format != "json" {
		return fmt.Errorf("unknown output format `%s`; use table or json", format)
	}
	return nil
}

func table(header ...string) (*tabwriter.Writer, func(...string)) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 3, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(io.Writer(w), strings.Join(cells, "\t")) }
	row(header...)
	return w, row
}

// age of a CRI time stamp (nanoseconds since 1970).
func age(nanoseconds int64) string {
	if nanoseconds == 0 {
		return "-"
	}
	return time.Since(time.Unix(0, nanoseconds)).Round(time.Second).String() + " ago"
}

func size(bytes uint64) string {
	const unit = 1000
	if bytes < unit {
		return fmt.Sprintf("%dB", bytes)
	}
	value, prefix := float64(bytes)/unit, 0
	for value >= unit && prefix < 3 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.3g%cB", value, "kMGT"[prefix])
}
