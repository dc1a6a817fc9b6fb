package main

// Masquerading and forwarding rules, in chains of our own.

import (
	"bytes"
	"fmt"
	"net"

	"k8s.io/kubernetes/pkg/util/iptables"
	"k8s.io/utils/exec"
)

const (
	natChain     iptables.Chain = "FIRSTLIGHT-POSTROUTING"
	forwardChain iptables.Chain = "FIRSTLIGHT-FORWARD"
)

func syncRules(p plan) error {
	var failed errors
	for _, protocol := range []iptables.Protocol{iptables.ProtocolIPv4, iptables.ProtocolIPv6} {
		v4 := protocol == iptables.ProtocolIPv4
		own := ofFamily(p.own, v4)
		if len(own) == 0 {
			continue
		}
		failed.add(syncFamily(iptables.New(exec.New(), protocol), v4, own, ofFamily(p.cluster, v4)))
	}
	return failed.err()
}

// syncFamily fills our chains in one transaction each and makes sure that the kernel's own chains lead to them.
func syncFamily(ipt iptables.Interface, v4 bool, own, cluster []*net.IPNet) error {
	for _, t := range []struct {
		table       iptables.Table
		from, chain iptables.Chain
		position    iptables.RulePosition
		text        []byte
	}{
		{iptables.TableNAT, iptables.ChainPostrouting, natChain, iptables.Append, natRules(v4, own, cluster, ipt.HasRandomFully())},
		// First, because a firewall's DROP may come later in FORWARD.
		{iptables.TableFilter, iptables.ChainForward, forwardChain, iptables.Prepend, forwardRules(cluster)},
	} {
		if err := ipt.Restore(t.table, t.text, iptables.NoFlushTables, iptables.NoRestoreCounters); err != nil {
			return fmt.Errorf("filling chain %s: %v", t.chain, err)
		}
		if _, err := ipt.EnsureRule(t.position, t.table, t.from, "-m", "comment", "--comment", "firstlight pod network", "-j", string(t.chain)); err != nil {
			return fmt.Errorf("leading %s to %s: %v", t.from, t.chain, err)
		}
	}
	return nil
}

// natRules masquerades what a pod of this node sends out of the pod ranges; pods see one another's true addresses.
func natRules(v4 bool, own, cluster []*net.IPNet, randomFully bool) []byte {
	multicast, masquerade := "ff00::/8", "-j MASQUERADE"
	if v4 {
		multicast = "224.0.0.0/4"
	}
	if randomFully {
		masquerade += " --random-fully" // two pods that pick the same port at once would lose a packet otherwise
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "*nat\n:%s - [0:0]\n", natChain)
	for _, to := range cluster {
		fmt.Fprintf(&b, "-A %s -d %s -j RETURN\n", natChain, to)
	}
	fmt.Fprintf(&b, "-A %s -d %s -j RETURN\n", natChain, multicast)
	for _, from := range own {
		fmt.Fprintf(&b, "-A %s -s %s %s\n", natChain, from, masquerade)
	}
	b.WriteString("COMMIT\n")
	return b.Bytes()
}

func forwardRules(cluster []*net.IPNet) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n", forwardChain)
	for _, cidr := range cluster {
		fmt.Fprintf(&b, "-A %s -s %s -j ACCEPT\n-A %s -d %s -j ACCEPT\n", forwardChain, cidr, forwardChain, cidr)
	}
	b.WriteString("COMMIT\n")
	return b.Bytes()
}

func ofFamily(ranges []*net.IPNet, v4 bool) []*net.IPNet {
	var kept []*net.IPNet
	for _, r := range ranges {
		if isV4(r.IP) == v4 {
			kept = append(kept, r)
		}
	}
	return kept
}
