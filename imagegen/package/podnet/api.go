package main

// The nodes as the API server tells them: one list, then a watch, again and again.

import (
	"context"
	"fmt"
	"io/ioutil"
	"net"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

const (
	requestTimeout = 20 * time.Second
	// A watch ends and is followed by a list, so that an event lost somewhere is made good for within this time.
	watchSeconds = 300
	retryPause   = 3 * time.Second
)

// endpoints are the ways to the API, best first.
//
// kube-proxy's kubeconfig comes first: it names the control plane's own address (and our service account's token), so
// podnet does not wait for kube-proxy to have made the Service address work, and it is the same on master0 and on nodes.
// The Service address comes second: it survives when the address that the domain had at our start is gone (the pod's
// copy of /etc/hosts is as old as the container).
func endpoints(kubeconfig string) []*rest.Config {
	var found []*rest.Config
	if _, err := os.Stat(kubeconfig); err == nil {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			klog.Warningf("reading `%s`: %v, using the in-cluster address", kubeconfig, err)
		} else {
			found = append(found, config)
		}
	}
	if config, err := rest.InClusterConfig(); err == nil {
		found = append(found, config)
	}
	return found
}

// follow sends the nodes after every change, for ever. It sends a map of its own each time.
func follow(o options, out chan<- map[string]*v1.Node) {
	for try := 0; ; try++ {
		ways := endpoints(o.kubeconfig)
		if len(ways) == 0 {
			klog.Errorf("no way to the API: neither `%s` nor an in-cluster configuration", o.kubeconfig)
		} else {
			config := ways[try%len(ways)]
			for {
				if err := listAndWatch(config, out); err != nil {
					klog.Warningf("%s: %v", config.Host, err)
					break
				}
			}
		}
		time.Sleep(retryPause)
	}
}

// listAndWatch returns nil when the watch ended in its time, and an error when the way does not work.
func listAndWatch(config *rest.Config, out chan<- map[string]*v1.Node) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	// Version 0 is answered from the API server's cache; a thousand nodes must not each ask etcd.
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("listing nodes: %v", err)
	}
	nodes := map[string]*v1.Node{}
	for i := range list.Items {
		nodes[list.Items[i].Name] = &list.Items[i]
	}
	out <- copied(nodes)

	seconds := int64(watchSeconds)
	watchCtx, cancelWatch := context.WithTimeout(context.Background(), watchSeconds*time.Second+requestTimeout)
	defer cancelWatch()
	watch, err := client.CoreV1().Nodes().Watch(watchCtx, metav1.ListOptions{
		ResourceVersion: list.ResourceVersion, TimeoutSeconds: &seconds})
	if err != nil {
		return fmt.Errorf("watching nodes: %v", err)
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		node, ok := event.Object.(*v1.Node)
		if !ok {
			// An expired version and the like: the next list is the cure.
			return nil
		}
		before := nodes[node.Name]
		if event.Type == "DELETED" {
			delete(nodes, node.Name)
		} else {
			nodes[node.Name] = node
			if before != nil && sameNetwork(before, node) {
				continue // kubelet's heartbeat
			}
		}
		out <- copied(nodes)
	}
	return nil
}

func copied(nodes map[string]*v1.Node) map[string]*v1.Node {
	out := make(map[string]*v1.Node, len(nodes))
	for name, node := range nodes {
		out[name] = node
	}
	return out
}

func sameNetwork(a, b *v1.Node) bool {
	return fmt.Sprint(podRanges(a), internalAddresses(a)) == fmt.Sprint(podRanges(b), internalAddresses(b))
}

// clusterRanges are the cluster's pod ranges as kube-proxy was told; none when they cannot be learned there.
func clusterRanges(path string) []*net.IPNet {
	text, err := ioutil.ReadFile(path)
	if err != nil {
		return nil
	}
	var config struct {
		ClusterCIDR string `json:"clusterCIDR"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		klog.Warningf("reading `%s`: %v, using the nodes' ranges", path, err)
		return nil
	}
	var ranges []*net.IPNet
	for _, part := range strings.Split(config.ClusterCIDR, ",") {
		if _, cidr, err := net.ParseCIDR(strings.TrimSpace(part)); err == nil {
			ranges = append(ranges, cidr)
		}
	}
	return ranges
}
