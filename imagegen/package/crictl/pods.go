package main

// Pod sandboxes: list, look, stop, remove.

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

// stopLimit bounds stopping a pod: its containers get their grace periods one after another.
const stopLimit = 2 * time.Minute

func podCommands() []*cobra.Command {
	return []*cobra.Command{podsCommand(), inspectPodCommand(), stopPodCommand(), removePodCommand()}
}

func podState(name string) (*runtimeapi.PodSandboxStateValue, error) {
	switch strings.ToLower(name) {
	case "":
		return nil, nil
	case "ready":
		return &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}, nil
	case "notready":
		return &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}, nil
	}
	return nil, fmt.Errorf("unknown pod state `%s`; use ready or notready", name)
}

func podsCommand() *cobra.Command {
	var format, state, name, namespace, id string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pods",
		Short: "List pods",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			wanted, err := podState(state)
			if err != nil {
				return err
			}
			return withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
				r, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
					Filter: &runtimeapi.PodSandboxFilter{Id: id, State: wanted}})
				if err != nil {
					return err
				}
				kept := r.Items[:0]
				for _, p := range r.Items {
					if (name == "" || strings.Contains(p.Metadata.Name, name)) && (namespace == "" || p.Metadata.Namespace == namespace) {
						kept = append(kept, p)
					}
				}
				r.Items = kept
				return printPods(r, format, quiet)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&format, "output", "o", "table", "table or json")
	flags.BoolVarP(&quiet, "quiet", "q", false, "whole ids only")
	flags.StringVarP(&state, "state", "s", "", "ready or notready")
	flags.StringVar(&name, "name", "", "pods whose name contains this")
	flags.StringVar(&namespace, "namespace", "", "pods of this namespace")
	flags.StringVar(&id, "id", "", "the pod with this id")
	return cmd
}

func printPods(r *runtimeapi.ListPodSandboxResponse, format string, quiet bool) error {
	if quiet {
		for _, p := range r.Items {
			fmt.Println(p.Id)
		}
		return nil
	}
	if format == "json" {
		return printJSON(r)
	}
	w, row := table("POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT")
	for _, p := range r.Items {
		state := "NotReady"
		if p.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			state = "Ready"
		}
		row(short(p.Id), age(p.CreatedAt), state, p.Metadata.Name, p.Metadata.Namespace, strconv.Itoa(int(p.Metadata.Attempt)))
	}
	return w.Flush()
}

func inspectPodCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspectp ID...",
		Short: "Print pods' status as JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return each(args, func(id string) error {
				return withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
					r, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
					if err != nil {
						return err
					}
					return printWithInfo(r.Status, r.Info)
				})
			})
		},
	}
}

func stopPodCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stopp ID...",
		Short: "Stop pods",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return each(args, stopPod) },
	}
}

func stopPod(id string) error {
	return withRuntime(stopLimit, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
		if _, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			return err
		}
		fmt.Printf("Stopped sandbox %s\n", id)
		return nil
	})
}

func removePodCommand() *cobra.Command {
	var all, force bool
	cmd := &cobra.Command{
		Use:   "rmp ID... | --all",
		Short: "Remove pods (stopped ones; --force stops them first)",
		RunE: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("name pods or say --all")
			}
			if all {
				ids, err := podIDs()
				if err != nil {
					return err
				}
				args = ids
			}
			return each(args, func(id string) error {
				if force {
					if err := stopPod(id); err != nil {
						return err
					}
				}
				return removePod(id)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all pods")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "stop them first")
	return cmd
}

func podIDs() (ids []string, err error) {
	err = withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
		r, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		for _, p := range r.Items {
			ids = append(ids, p.Id)
		}
		return nil
	})
	return ids, err
}

// removePod refuses a pod that still runs. CRI's RemovePodSandbox would kill it, and an operator who forgot `stopp`
// would lose a pod by a typing error.
func removePod(id string) error {
	return withRuntime(stopLimit, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
		r, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
		if err != nil {
			return err
		}
		if r.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			return fmt.Errorf("the pod is still running; stop it first or use --force")
		}
		if _, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			return err
		}
		fmt.Printf("Removed sandbox %s\n", id)
		return nil
	})
}
