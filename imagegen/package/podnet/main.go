// podnet is the default package's pod network: it makes every pod of every node reach every other without translation,
// for nodes that share one link. One copy runs on each node (a DaemonSet on the host's network).
//
// From the Node objects it derives, and keeps: the node's CNI configuration (ptp and host-local on the node's pod
// range), a route to each other node's pod range by that node's InternalIP, masquerading for what leaves the pod
// ranges, and IP forwarding. It does not do network policy, encapsulation or encryption; nodes behind a router from
// one another are named in the log and left out.
//
// Ending it leaves everything in place: pods stay connected while podnet is restarted or replaced.
package main

import (
	"flag"
	"os"
	"os/signal"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// repairInterval bounds how long something that another program removed (a route, a rule) stays away.
const repairInterval = time.Minute

type options struct {
	node       string
	cniFile    string
	kubeconfig string
	proxy      string
	sysctl     string
}

func main() {
	var o options
	flag.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "name of this node")
	flag.StringVar(&o.cniFile, "cni-file", "/etc/cni/net.d/10-firstlight.conflist", "where the CNI configuration is written")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "/etc/kube-proxy/kubeconfig.conf", "how to reach the API, if it exists; the in-cluster address is tried too")
	flag.StringVar(&o.proxy, "kube-proxy-config", "/etc/kube-proxy/config.conf", "kube-proxy's configuration, which names the cluster's pod ranges")
	flag.StringVar(&o.sysctl, "sysctl", "/proc/sys", "folder of kernel settings")
	klog.InitFlags(nil)
	flag.Parse()
	if o.node == "" {
		klog.Exit("this node's name is not known; set NODE_NAME or --node")
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	nodes := make(chan map[string]*v1.Node)
	go follow(o, nodes)

	kept := &network{options: o}
	repair := time.NewTicker(repairInterval)
	var known map[string]*v1.Node
	for {
		select {
		case <-stop:
			return
		case known = <-nodes:
		case <-repair.C:
		}
		if known == nil {
			continue
		}
		if err := kept.reconcile(known); err != nil {
			klog.Errorf("%v; trying again within %s", err, repairInterval)
		}
	}
}

// network is this node's part of the pod network and what was last said about it.
type network struct {
	options
	last string
}

// reconcile makes the kernel and the CNI configuration agree with the nodes. Everything is tried even when a part
// fails, except that the CNI configuration, which makes the node Ready, is written only when the rest is in place.
func (n *network) reconcile(nodes map[string]*v1.Node) error {
	wanted, err := planFor(n.node, nodes, clusterRanges(n.proxy))
	if err != nil {
		return err
	}
	link, err := linkWith(wanted.address)
	if err != nil {
		return err
	}
	var failed errors
	failed.add(forward(n.sysctl, wanted))
	failed.add(syncRoutes(wanted))
	failed.add(syncRules(wanted))
	if err := failed.err(); err != nil {
		return err
	}
	changed, err := writeCNI(n.cniFile, wanted, link.Attrs().MTU)
	if err != nil {
		return err
	}
	if text := wanted.String(); changed || text != n.last {
		klog.Infof("%s, mtu %d on %s", text, link.Attrs().MTU, link.Attrs().Name)
		n.last = text
	}
	return nil
}
