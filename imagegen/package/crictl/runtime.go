package main

// The runtime itself: its version, and whether it and its network are ready.

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

func runtimeCommands() []*cobra.Command {
	return []*cobra.Command{versionCommand(), infoCommand()}
}

func versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the runtime's name and version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			return withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
				v, err := c.Version(ctx, &runtimeapi.VersionRequest{Version: "v1alpha2"})
				if err != nil {
					return err
				}
				if format == "json" {
					return printJSON(v)
				}
				fmt.Printf("Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
					v.Version, v.RuntimeName, v.RuntimeVersion, v.RuntimeApiVersion)
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

// infoCommand is what kubeadm asks to learn whether the runtime runs; its exit status is the answer.
func infoCommand() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Print the runtime's status and configuration as JSON",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if format != "json" {
				return fmt.Errorf("unknown output format `%s`; info is json", format)
			}
			return withRuntime(0, func(ctx context.Context, c runtimeapi.RuntimeServiceClient) error {
				r, err := c.Status(ctx, &runtimeapi.StatusRequest{Verbose: !quiet})
				if err != nil {
					return err
				}
				return printWithInfo(r.Status, r.Info)
			})
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "json", "json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "status without configuration")
	return cmd
}
