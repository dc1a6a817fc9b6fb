// crictl talks to the node's container runtime over CRI v1alpha2, for kubeadm 1.20 and for the person on the node.
// It is not cri-tools' crictl (Debian has none): it has the commands that kubeadm runs and those that an operator
// needs to look and to clean up. It never creates pods; that is kubelet's.
//
// It is built inside the Kubernetes source tree, so that the CRI types and grpc are exactly kubelet's own.
package main

import (
	"context"
	"fmt"
	"io/ioutil"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
	"sigs.k8s.io/yaml"
)

const (
	defaultConfig   = "/etc/crictl.yaml"
	defaultEndpoint = "unix:///run/containerd/containerd.sock"
	defaultTimeout  = 2 * time.Second
	// Image lists of a full node exceed grpc's default of 4 MiB; kubelet allows 16 MiB.
	maxMessage = 16 << 20
)

// settings are what the person chose: flags first, then environment, then /etc/crictl.yaml, then the defaults.
type settings struct {
	config, runtime, image string
	timeout                time.Duration
	timeoutGiven           bool
}

// configFile is the part of /etc/crictl.yaml that has a meaning here; cri-tools writes more keys, which are ignored.
type configFile struct {
	RuntimeEndpoint string `json:"runtime-endpoint"`
	ImageEndpoint   string `json:"image-endpoint"`
	Timeout         int    `json:"timeout"` // seconds
}

var chosen settings

func main() {
	root := &cobra.Command{
		Use:           "crictl",
		Short:         "Client for the container runtime interface (CRI v1alpha2)",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			chosen.timeoutGiven = cmd.Flags().Changed("timeout")
		},
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&chosen.config, "config", "c", "", "configuration file (default "+defaultConfig+", if it exists)")
	flags.StringVarP(&chosen.runtime, "runtime-endpoint", "r", os.Getenv("CONTAINER_RUNTIME_ENDPOINT"), "runtime's socket (default "+defaultEndpoint+")")
	flags.StringVarP(&chosen.image, "image-endpoint", "i", os.Getenv("IMAGE_SERVICE_ENDPOINT"), "image service's socket (default: the runtime's)")
	flags.DurationVarP(&chosen.timeout, "timeout", "t", defaultTimeout, "time to connect, and to answer where no transfer is involved")
	root.AddCommand(runtimeCommands()...)
	root.AddCommand(podCommands()...)
	root.AddCommand(containerCommands()...)
	root.AddCommand(imageCommands()...)
	if err := root.Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "crictl: %v\n", err)
		os.Exit(1)
	}
}

// resolve fills what flags and environment left open.
func (s settings) resolve() (settings, error) {
	path, explicit := s.config, s.config != ""
	if !explicit {
		path = defaultConfig
	}
	text, err := ioutil.ReadFile(path)
	if err != nil && (explicit || !os.IsNotExist(err)) {
		return s, err
	}
	var file configFile
	if err := yaml.Unmarshal(text, &file); err != nil {
		return s, fmt.Errorf("%s: %v", path, err)
	}
	s.runtime = firstOf(s.runtime, file.RuntimeEndpoint, defaultEndpoint)
	s.image = firstOf(s.image, file.ImageEndpoint, s.runtime)
	if !s.timeoutGiven && file.Timeout > 0 {
		s.timeout = time.Duration(file.Timeout) * time.Second
	}
	return s, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// socketPath accepts `unix:///run/x.sock` and the bare path, which kubeadm passes on as it was given.
func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("endpoint `%s` is not a unix socket; use unix:///path or /path", endpoint)
	}
	return path, nil
}

func connect(endpoint string, timeout time.Duration) (*grpc.ClientConn, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	// The socket is tried first by hand: grpc's blocking dial answers "context deadline exceeded" for every cause,
	// and "no such file" or "connection refused" is what one needs to read.
	probe, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return nil, fmt.Errorf("connecting to the container runtime: %v; is it running?", err)
	}
	probe.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := grpc.DialContext(ctx, path, grpc.WithInsecure(), grpc.WithBlock(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", addr)
		}))
	if err != nil {
		return nil, fmt.Errorf("connecting to `%s`: %v", endpoint, err)
	}
	return conn, nil
}

// withRuntime runs `do` with a connected runtime client and a deadline; a zero `limit` means the chosen timeout.
func withRuntime(limit time.Duration, do func(context.Context, runtimeapi.RuntimeServiceClient) error) error {
	s, err := chosen.resolve()
	if err != nil {
		return err
	}
	conn, err := connect(s.runtime, s.timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if limit == 0 {
		limit = s.timeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return do(ctx, runtimeapi.NewRuntimeServiceClient(conn))
}

// withImages is withRuntime for the image service.
func withImages(limit time.Duration, do func(context.Context, runtimeapi.ImageServiceClient) error) error {
	s, err := chosen.resolve()
	if err != nil {
		return err
	}
	conn, err := connect(s.image, s.timeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if limit == 0 {
		limit = s.timeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return do(ctx, runtimeapi.NewImageServiceClient(conn))
}

// each applies `do` to every argument and reports all that failed, so that one bad id does not hide the others.
func each(args []string, do func(string) error) error {
	var failed []string
	for _, arg := range args {
		if err := do(arg); err != nil {
			failed = append(failed, fmt.Sprintf("`%s`: %v", arg, err))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%s", strings.Join(failed, "; "))
	}
	return nil
}
