package main

// Containers: list, look, read their logs, run a command inside, stop, remove.

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
	"k8s.io/kubernetes/pkg/kubelet/cri/remote"
	"k8s.io/kubernetes/pkg/kubelet/kuberuntime/logs"
)

func containerCommands() []*cobra.Command {
	return []*cobra.Command{psCommand(), inspectCommand(), logsCommand(), execCommand(), stopCommand(), removeCommand()}
}

var stateNames = map[runtimeapi.ContainerState]string{
	runtimeapi.ContainerState_CONTAINER_CREATED: "Created",
	runtimeapi.ContainerState_CONTAINER_RUNNING: "Running",
	runtimeapi.ContainerState_CONTAINER_EXITED:  "Exited",
	runtimeapi.ContainerState_CONTAINER_UNKNOWN: "Unknown",
}

func containerState(name string, all bool) (*runtimeapi.ContainerStateValue, error) {
	if name == "" {
		if all {
			return nil, nil
		}
		name = "Running"
	}
	for state, known := range stateNames {
		if strings.EqualFold(known, name) {
			return &runtimeapi.ContainerStateValue{State: state}, nil
		}
	}
	return nil, fmt.Errorf("unknown container state `%s`; use created, running, exited or unknown", name)
}

func psCommand() *cobra.Command {
	var format, state, name, pod, id string
	var all, quiet bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List containers (running ones; --all for every one)",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			wanted, err := containerState(state, all)
			if err != nil {
				return err
			}
			return withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
				r, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{
					Filter: &runtimeapi.ContainerFilter{Id: id, PodSandboxId: pod, State: wanted}})
				if err != nil {
					return err
				}
				kept := r.Containers[:0]
				for _, container := range r.Containers {
					if name == "" || strings.Contains(container.Metadata.Name, name) {
						kept = append(kept, container)
					}
				}
				r.Containers = kept
				return printContainers(r, format, quiet)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&format, "output", "o", "table", "table or json")
	flags.BoolVarP(&all, "all", "a", false, "every container")
	flags.BoolVarP(&quiet, "quiet", "q", false, "whole ids only")
	flags.StringVarP(&state, "state", "s", "", "created, running, exited or unknown")
	flags.StringVar(&name, "name", "", "containers whose name contains this")
	flags.StringVarP(&pod, "pod", "p", "", "containers of the pod with this id")
	flags.StringVar(&id, "id", "", "the container with this id")
	return cmd
}

func printContainers(r *runtimeapi.ListContainersResponse, format string, quiet bool) error {
	if quiet {
		for _, c := range r.Containers {
			fmt.Println(c.Id)
		}
		return nil
	}
	if format == "json" {
		return printJSON(r)
	}
	w, row := table("CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD")
	for _, c := range r.Containers {
		row(short(c.Id), short(c.ImageRef), age(c.CreatedAt), stateNames[c.State], c.Metadata.Name,
			strconv.Itoa(int(c.Metadata.Attempt)), short(c.PodSandboxId), c.Labels["io.kubernetes.pod.name"])
	}
	return w.Flush()
}

func inspectCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect ID...",
		Short: "Print containers' status as JSON",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "json" {
				return fmt.Errorf("unknown output format `%s`; inspect is json", format)
			}
			return each(args, func(id string) error {
				return withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
					r, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
					if err != nil {
						return err
					}
					return printWithInfo(r.Status, r.Info)
				})
			})
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "json", "json")
	return cmd
}

// logsCommand reads the log file that the runtime names, with kubelet's own reader: it knows partial lines,
// rotation and following.
func logsCommand() *cobra.Command {
	var follow, stamps bool
	var tail int64
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Print a container's log",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := chosen.resolve()
			if err != nil {
				return err
			}
			path, err := socketPath(s.runtime)
			if err != nil {
				return err
			}
			service, err := remote.NewRemoteRuntimeService("unix://"+path, s.timeout)
			if err != nil {
				return err
			}
			status, err := service.ContainerStatus(args[0])
			if err != nil {
				return err
			}
			if status.LogPath == "" {
				return fmt.Errorf("container `%s` has no log file", args[0])
			}
			options := &v1.PodLogOptions{Follow: follow, Timestamps: stamps}
			if cmd.Flags().Changed("tail") {
				options.TailLines = &tail
			}
			return logs.ReadLogs(context.Background(), status.LogPath, status.Id,
				logs.NewLogOptions(options, time.Now()), service, os.Stdout, os.Stderr)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "keep reading")
	cmd.Flags().BoolVar(&stamps, "timestamps", false, "with time stamps")
	cmd.Flags().Int64Var(&tail, "tail", -1, "lines from the end")
	return cmd
}

// execCommand runs without a terminal: ExecSync needs no streaming server, which may be unreachable when one debugs.
func execCommand() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "exec ID COMMAND [ARG...]",
		Short: "Run a command in a container, without terminal or input",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return withRuntime(limit+defaultTimeout, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
				r, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
					ContainerId: args[0], Cmd: args[1:], Timeout: int64(limit / time.Second)})
				if err != nil {
					return err
				}
				os.Stdout.Write(r.Stdout)
				os.Stderr.Write(r.Stderr)
				if r.ExitCode != 0 {
					return fmt.Errorf("the command ended with exit status %d", r.ExitCode)
				}
				return nil
			})
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().DurationVar(&limit, "limit", time.Minute, "time after which the command is killed")
	return cmd
}

func stopCommand() *cobra.Command {
	var grace int64
	cmd := &cobra.Command{
		Use:   "stop ID...",
		Short: "Stop containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return each(args, func(id string) error {
				limit := time.Duration(grace)*time.Second + stopLimit
				return withRuntime(limit, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
					_, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace})
					if err == nil {
						fmt.Println(id)
					}
					return err
				})
			})
		},
	}
	cmd.Flags().Int64Var(&grace, "grace", 0, "seconds between SIGTERM and SIGKILL")
	return cmd
}

func removeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID...",
		Short: "Remove stopped containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return each(args, func(id string) error {
				return withRuntime(stopLimit, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
					r, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
					if err != nil {
						return err
					}
					if r.Status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
						return fmt.Errorf("the container is running; stop it first")
					}
					_, err = c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
					if err == nil {
						fmt.Println(id)
					}
					return err
				})
			})
		},
	}
}
