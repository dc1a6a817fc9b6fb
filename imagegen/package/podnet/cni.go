package main

// The node's CNI configuration. Its presence is what makes kubelet report the node's network ready.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"
)

type object map[string]interface{}

// cniConfig: ptp gives each pod a veth pair and a host route. Unlike a bridge it needs no bridge module, and traffic
// between pods of one node passes the host's rules (Services) without br_netfilter.
func cniConfig(p plan, mtu int) ([]byte, error) {
	var ranges [][]object
	var routes []object
	for _, own := range p.own {
		ranges = append(ranges, []object{{"subnet": own.String()}})
		all := "::/0"
		if isV4(own.IP) {
			all = "0.0.0.0/0"
		}
		routes = append(routes, object{"dst": all})
	}
	text, err := json.MarshalIndent(object{
		"cniVersion": "0.4.0",
		"name":       "firstlight",
		"plugins": []object{
			{
				"type": "ptp",
				"mtu":  mtu,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "snat": true, "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
	return append(text, '\n'), err
}

// writeCNI replaces the file only when it differs, and whole: containerd reads the folder on every change, and a half
// file would take the node's network away. It says whether it wrote.
func writeCNI(path string, p plan, mtu int) (bool, error) {
	text, err := cniConfig(p, mtu)
	if err != nil {
		return false, err
	}
	if present, err := ioutil.ReadFile(path); err == nil && bytes.Equal(present, text) {
		return false, nil
	}
	// The name must not end in .conf, .conflist or .json: those are read.
	file, err := ioutil.TempFile(filepath.Dir(path), ".firstlight-*.new")
	if err != nil {
		return false, fmt.Errorf("writing `%s`: %v", path, err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err == nil {
		err = file.Chmod(0644)
	}
	if err == nil {
		err = file.Sync()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return false, fmt.Errorf("writing `%s`: %v", path, err)
	}
	return true, nil
}
