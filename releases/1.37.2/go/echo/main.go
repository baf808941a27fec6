// Command echo is the other end of freehold's tests: an HTTP(S) server that says who answered and whom it saw,
// an admission webhook (/deny, /mutate) and, with -dns, a name server for one name.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":8080", "address of the HTTP server; empty: none")
	text := flag.String("text", "", "answer with this text only")
	certificate := flag.String("tls-cert", "", "PEM file; with -tls-key the server speaks HTTPS")
	key := flag.String("tls-key", "", "PEM file of the certificate's key")
	dns := flag.String("dns", "", "address of a DNS server over UDP, for example :53; empty: none")
	dnsName := flag.String("dns-name", "example.test", "the name the DNS server knows")
	dnsAddress := flag.String("dns-address", "192.0.2.10", "its IPv4 address")
	flag.Parse()
	if (*certificate == "") != (*key == "") {
		log.Fatal("-tls-cert and -tls-key belong together")
	}

	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 2)
	if *dns != "" {
		go func() { failed <- serveDNS(*dns, *dnsName, net.ParseIP(*dnsAddress).To4()) }()
	}
	if *listen != "" {
		server := &http.Server{Addr: *listen, Handler: handler(*text), ReadHeaderTimeout: 10 * time.Second}
		defer server.Close()
		go func() {
			if *certificate != "" {
				failed <- server.ListenAndServeTLS(*certificate, *key)
			} else {
				failed <- server.ListenAndServe()
			}
		}()
	}
	select {
	case err := <-failed:
		log.Fatal(err)
	case <-ended.Done():
	}
}

func handler(text string) http.Handler {
	hostname, _ := os.Hostname()
	routes := http.NewServeMux()
	routes.HandleFunc("/deny", review(deny))
	routes.HandleFunc("/mutate", review(mutate))
	routes.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if text != "" {
			fmt.Fprintln(w, text)
			return
		}
		fmt.Fprintf(w, "hostname: %s\nmethod: %s\npath: %s\nremote: %s\nhost: %s\n",
			hostname, r.Method, r.URL.Path, r.RemoteAddr, r.Host)
	})
	return routes
}
