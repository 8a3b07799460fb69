package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/pkg/web"
)

// servePage serves the web page, if there is to be one, until ctx ends; what
// it gives back can be waited for then. The token is told on out alone: logs
// are read by others.
func servePage(ctx context.Context, c *config, n *node, out io.Writer) (*sync.WaitGroup, error) {
	var serving sync.WaitGroup
	if c.Web.Listen == "" {
		return &serving, nil
	}
	token, err := web.Token(c.Root)
	if err != nil {
		return nil, err
	}
	l, err := web.Listen(ctx, c.Web.Listen, c.Web.CertDir)
	if err != nil {
		return nil, err
	}
	o := web.Options{Images: n.images, Engine: n.engine, Token: token}
	scheme := "http"
	if c.Web.CertDir != "" {
		o.Names, scheme = []string{web.AnyName}, "https"
	}
	serving.Go(func() {
		if err := web.Serve(ctx, l, web.New(o)); err != nil {
			klog.ErrorS(err, "No more web page")
		}
	})
	url := scheme + "://" + pageAddress(c.Web.Listen, l.Addr())
	fmt.Fprintf(out, "web page: %s/#token=%s\n", url, token)
	klog.InfoS("Serving web page", "url", url, "token", web.TokenFile(c.Root))
	return &serving, nil
}

// pageAddress is the host that was configured, or this one where all of its
// addresses were, with the port that was got: it may have been 0.
func pageAddress(configured string, got net.Addr) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, perr := net.SplitHostPort(got.String())
	if err != nil || perr != nil {
		return got.String()
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return got.String()
		}
	}
	return net.JoinHostPort(host, port)
}
