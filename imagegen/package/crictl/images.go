package main

// Images: list, look, pull, remove.

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

// pullLimit bounds one pull; kubeadm repeats it five times.
const pullLimit = 10 * time.Minute

func imageCommands() []*cobra.Command {
	return []*cobra.Command{imagesCommand(), inspectImageCommand(), pullCommand(), removeImageCommand()}
}

func imagesCommand() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "images [REFERENCE]",
		Short: "List images",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			filter := &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{}}
			if len(args) == 1 {
				filter.Image.Image = args[0]
			}
			return withImages(0, func(ctx context.Context, c runtimeapi.ImageServiceClient) error {
				r, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: filter})
				if err != nil {
					return err
				}
				return printImages(r, format, quiet)
			})
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "whole ids only")
	return cmd
}

func printImages(r *runtimeapi.ListImagesResponse, format string, quiet bool) error {
	if quiet {
		for _, image := range r.Images {
			fmt.Println(image.Id)
		}
		return nil
	}
	if format == "json" {
		return printJSON(r)
	}
	w, row := table("IMAGE", "TAG", "IMAGE ID", "SIZE")
	for _, image := range r.Images {
		names := image.RepoTags
		if len(names) == 0 {
			names = []string{"<none>:<none>"}
		}
		for _, name := range names {
			// The tag follows the last colon after the last slash: a registry may carry a port.
			repository, tag := name, "<none>"
			if colon := strings.LastIndex(name, ":"); colon > strings.LastIndex(name, "/") {
				repository, tag = name[:colon], name[colon+1:]
			}
			row(repository, tag, short(image.Id), size(image.Size_))
		}
	}
	return w.Flush()
}

// inspectImageCommand is kubeadm's question "is this image there": an absent image must be an error.
func inspectImageCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspecti REFERENCE...",
		Short: "Print images' status as JSON; fails for one that is not there",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "json" {
				return fmt.Errorf("unknown output format `%s`; inspecti is json", format)
			}
			return each(args, func(reference string) error {
				return withImages(0, func(ctx context.Context, c runtimeapi.ImageServiceClient) error {
					r, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{
						Image: &runtimeapi.ImageSpec{Image: reference}, Verbose: true})
					if err != nil {
						return err
					}
					if r.Image == nil {
						return fmt.Errorf("no such image present")
					}
					return printWithInfo(r.Image, r.Info)
				})
			})
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "json", "json")
	return cmd
}

func pullCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Pull an image from its registry",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return withImages(pullLimit, func(ctx context.Context, c runtimeapi.ImageServiceClient) error {
				r, err := c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: args[0]}})
				if err != nil {
					return err
				}
				if !quiet {
					fmt.Printf("Image is up to date for %s\n", r.ImageRef)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing on success")
	return cmd
}

func removeImageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rmi REFERENCE...",
		Short: "Remove images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return each(args, func(reference string) error {
				return withImages(stopLimit, func(ctx context.Context, c runtimeapi.ImageServiceClient) error {
					// RemoveImage is silent about an image that is not there; a person who mistyped wants to know.
					status, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: reference}})
					if err != nil {
						return err
					}
					if status.Image == nil {
						return fmt.Errorf("no such image present")
					}
					if _, err := c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: reference}}); err != nil {
						return err
					}
					fmt.Printf("Deleted: %s\n", reference)
					return nil
				})
			})
		},
	}
}
