package main

// What this node's part of the network shall be, computed from the nodes alone. Nothing is changed here.

import (
	"fmt"
	"net"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// route is a pod range of another node and the address it is reached by.
type route struct {
	node string
	to   *net.IPNet
	via  net.IP
}

type plan struct {
	address net.IP       // this node's first InternalIP: its link carries the network
	own     []*net.IPNet // this node's pod ranges
	routes  []route      // sorted
	cluster []*net.IPNet // what is never masqueraded: all pod ranges
}

func (p plan) String() string {
	return fmt.Sprintf("pod ranges %v at %s, routes to %d other ranges", p.own, p.address, len(p.routes))
}

func isV4(ip net.IP) bool { return ip.To4() != nil }

// podRanges of a node: the plural field (dual stack) first, because it contains the singular one.
func podRanges(node *v1.Node) []*net.IPNet {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var ranges []*net.IPNet
	for _, text := range texts {
		if _, cidr, err := net.ParseCIDR(text); err == nil {
			ranges = append(ranges, cidr)
		}
	}
	return ranges
}

func internalAddresses(node *v1.Node) []net.IP {
	var found []net.IP
	for _, address := range node.Status.Addresses {
		if ip := net.ParseIP(address.Address); address.Type == v1.NodeInternalIP && ip != nil {
			found = append(found, ip)
		}
	}
	return found
}

// planFor computes the plan of node `self`. `cluster` may be empty: then the nodes' own ranges are taken.
func planFor(self string, nodes map[string]*v1.Node, cluster []*net.IPNet) (plan, error) {
	me := nodes[self]
	if me == nil {
		return plan{}, fmt.Errorf("node `%s` is not in the API yet", self)
	}
	addresses := internalAddresses(me)
	if len(addresses) == 0 {
		return plan{}, fmt.Errorf("node `%s` has no InternalIP yet", self)
	}
	p := plan{address: addresses[0], own: podRanges(me), cluster: cluster}
	if len(p.own) == 0 {
		return plan{}, fmt.Errorf("node `%s` has no pod range yet; kube-controller-manager gives it one when it runs with --allocate-node-cidrs", self)
	}
	for name, node := range nodes {
		if len(cluster) == 0 {
			p.cluster = append(p.cluster, podRanges(node)...)
		}
		if name == self {
			continue
		}
		for _, to := range podRanges(node) {
			for _, via := range internalAddresses(node) {
				if isV4(via) == isV4(to.IP) {
					p.routes = append(p.routes, route{name, to, via})
					break
				}
			}
		}
	}
	sort.Slice(p.routes, func(i, j int) bool { return p.routes[i].to.String() < p.routes[j].to.String() })
	sort.Slice(p.cluster, func(i, j int) bool { return p.cluster[i].String() < p.cluster[j].String() })
	return p, nil
}

// errors collects what failed, so that one failure does not keep the rest from being tried.
type errors []string

func (e *errors) add(err error) {
	if err != nil {
		*e = append(*e, err.Error())
	}
}

func (e errors) err() error {
	if len(e) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(e, "; "))
}
