package main

// Routes, links and forwarding in the kernel.

import (
	"fmt"
	"io/ioutil"
	"net"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// protocol marks our routes (any number above RTPROT_STATIC that no routing daemon uses), so that only ours are removed.
const protocol = 158

// linkWith finds the link that carries `address`.
func linkWith(address net.IP) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing links: %v", err)
	}
	for _, link := range links {
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("listing addresses of `%s`: %v", link.Attrs().Name, err)
		}
		for _, a := range addresses {
			if a.IP.Equal(address) {
				return link, nil
			}
		}
	}
	return nil, fmt.Errorf("no link of this node carries its address %s", address)
}

// syncRoutes adds, changes and removes routes of ours until they are those of the plan.
func syncRoutes(p plan) error {
	present, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("listing routes: %v", err)
	}
	var failed errors
	kept := map[string]bool{}
	for _, r := range p.routes {
		wanted, err := kernelRoute(r)
		if err != nil {
			failed.add(err)
			continue
		}
		if wanted == nil {
			continue
		}
		kept[r.to.String()] = true
		if !contains(present, wanted) {
			if err := netlink.RouteReplace(wanted); err != nil {
				failed.add(fmt.Errorf("routing %s by %s (node `%s`): %v", r.to, r.via, r.node, err))
				continue
			}
			klog.Infof("routed %s by %s (node `%s`)", r.to, r.via, r.node)
		}
	}
	for i := range present {
		if old := &present[i]; old.Dst != nil && !kept[old.Dst.String()] {
			if err := netlink.RouteDel(old); err != nil && err != unix.ESRCH {
				failed.add(fmt.Errorf("removing the route to %s: %v", old.Dst, err))
				continue
			}
			klog.Infof("removed the route to %s", old.Dst)
		}
	}
	return failed.err()
}

// kernelRoute is nil when the other node is not on one of our links: a router between would send the packets back.
func kernelRoute(r route) (*netlink.Route, error) {
	ways, err := netlink.RouteGet(r.via)
	if err != nil || len(ways) == 0 {
		return nil, fmt.Errorf("node `%s`: no route to its address %s: %v", r.node, r.via, err)
	}
	if ways[0].Gw != nil {
		klog.Warningf("node `%s` (%s) is behind the router %s, not on this node's network; its pods cannot be reached", r.node, r.via, ways[0].Gw)
		return nil, nil
	}
	return &netlink.Route{LinkIndex: ways[0].LinkIndex, Dst: r.to, Gw: r.via, Protocol: protocol}, nil
}

func contains(present []netlink.Route, wanted *netlink.Route) bool {
	for _, r := range present {
		if r.Dst != nil && r.Dst.String() == wanted.Dst.String() && r.Gw.Equal(wanted.Gw) && r.LinkIndex == wanted.LinkIndex {
			return true
		}
	}
	return false
}

// forward switches forwarding on for the families in use. The image does so at boot; this is for other hosts, and for
// a person who switched it off.
func forward(sysctl string, p plan) error {
	settings := map[string]bool{}
	for _, own := range p.own {
		if isV4(own.IP) {
			settings["net/ipv4/ip_forward"] = true
		} else {
			settings["net/ipv6/conf/all/forwarding"] = true
		}
	}
	var failed errors
	for name := range settings {
		path := filepath.Join(sysctl, name)
		text, err := ioutil.ReadFile(path)
		if err == nil && strings.TrimSpace(string(text)) == "1" {
			continue
		}
		if err == nil {
			err = ioutil.WriteFile(path, []byte("1\n"), 0644)
		}
		if err != nil {
			failed.add(fmt.Errorf("switching IP forwarding on: %v", err))
		}
	}
	return failed.err()
}
