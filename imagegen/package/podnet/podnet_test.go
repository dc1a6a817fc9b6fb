package main

import (
	"net"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, address string, ranges ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.NodeSpec{PodCIDRs: ranges}}
	for _, a := range strings.Fields(address) {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	return n
}

func byName(nodes ...*v1.Node) map[string]*v1.Node {
	out := map[string]*v1.Node{}
	for _, n := range nodes {
		out[n.Name] = n
	}
	return out
}

func TestOthersRangesAreRoutedByTheirAddressOfTheSameFamily(t *testing.T) {
	p, err := planFor("a", byName(
		node("a", "10.0.0.1 fd00::1", "10.244.0.0/24", "fd10:0::/64"),
		node("b", "10.0.0.2 fd00::2", "10.244.1.0/24", "fd10:1::/64"),
		node("c", "10.0.0.3", "10.244.2.0/24", "fd10:2::/64"), // no IPv6 address: its IPv6 range has no way
		node("d", "", "10.244.3.0/24"),
	), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range p.routes {
		got = append(got, r.to.String()+">"+r.via.String())
	}
	want := "10.244.1.0/24>10.0.0.2 10.244.2.0/24>10.0.0.3 fd10:1::/64>fd00::2"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
	if len(p.cluster) != 7 {
		t.Errorf("without a cluster range all nodes' ranges are kept from masquerading: %v", p.cluster)
	}
}

func TestAnUnfinishedNodeIsNamed(t *testing.T) {
	for want, nodes := range map[string]map[string]*v1.Node{
		"not in the API": byName(node("b", "10.0.0.2", "10.244.1.0/24")),
		"no InternalIP":  byName(node("a", "", "10.244.0.0/24")),
		"no pod range":   byName(node("a", "10.0.0.1")),
	} {
		if _, err := planFor("a", nodes, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestMasqueradingLeavesPodRangesAlone(t *testing.T) {
	_, own, _ := net.ParseCIDR("10.244.1.0/24")
	_, cluster, _ := net.ParseCIDR("10.244.0.0/16")
	got := string(natRules(true, []*net.IPNet{own}, []*net.IPNet{cluster}, true))
	keep, masquerade := strings.Index(got, "-d 10.244.0.0/16 -j RETURN"), strings.Index(got, "-s 10.244.1.0/24 -j MASQUERADE --random-fully")
	if keep < 0 || masquerade < keep {
		t.Errorf("%s", got)
	}
}

func TestTheCNIFileIsWrittenOnce(t *testing.T) {
	p, err := planFor("a", byName(node("a", "10.0.0.1", "10.244.0.0/24")), nil)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/10.conflist"
	for i, want := range []bool{true, false} {
		if wrote, err := writeCNI(path, p, 1500); err != nil || wrote != want {
			t.Errorf("run %d: wrote %v, %v", i, wrote, err)
		}
	}
}
