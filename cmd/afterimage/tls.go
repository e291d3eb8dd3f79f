package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// certificate is what a listener shows; it may change while connections go on.
type certificate struct {
	pair atomic.Pointer[tls.Certificate]
}

// load reads c's certificate, or makes one for hosts that is kept in dir ("": for this run only). With an error the old one stays.
func (s *certificate) load(c TLSConfig, dir string, hosts []string) error {
	var pair tls.Certificate
	var err error
	if c.SelfSigned {
		pair, err = selfSigned(dir, hosts, time.Now())
	} else {
		pair, err = tls.LoadX509KeyPair(c.Cert, c.Key)
	}
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	s.pair.Store(&pair)
	return nil
}

// config has the protocol versions and ciphers of crypto/tls. HTTP/2 is left out: its requests cannot become WebSockets.
func (s *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.pair.Load(), nil },
	}
}

// fingerprint is what a person compares: the SHA-256 of the certificate, as browsers and openssl print it.
func (s *certificate) fingerprint() string {
	sum := sha256.Sum256(s.pair.Load().Certificate[0])
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

const (
	selfSignedFile = "self-signed.pem"
	selfSignedFor  = 397 * 24 * time.Hour // the most that browsers accept
	renewBefore    = 30 * 24 * time.Hour
)

// selfSigned is a certificate for hosts that its own key signs: that of dir where it is still good, so that whoever has accepted it need not
// do so again, or else a new one.
func selfSigned(dir string, hosts []string, now time.Time) (tls.Certificate, error) {
	file := ""
	if dir != "" {
		file = filepath.Join(dir, selfSignedFile)
		if text, err := os.ReadFile(file); err == nil {
			pair, err := tls.X509KeyPair(text, text)
			if err == nil && covers(pair.Leaf, hosts) && now.Add(renewBefore).Before(pair.Leaf.NotAfter) && !now.Before(pair.Leaf.NotBefore) {
				return pair, nil
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Afterimage (self-signed)"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfSignedFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	var text bytes.Buffer
	for _, block := range []pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: private}} {
		if err := pem.Encode(&text, &block); err != nil {
			return tls.Certificate{}, err
		}
	}
	if file != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return tls.Certificate{}, err
		}
		if err := replaceFile(file, text.Bytes()); err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.X509KeyPair(text.Bytes(), text.Bytes())
}

func covers(c *x509.Certificate, hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(h string) bool { return c.VerifyHostname(h) != nil })
}

// ownHosts are the names that a certificate of our own is for: this machine's, where we listen, and those that the configuration allows.
func ownHosts(listen string, allowed []string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil && hostName.MatchString(name) {
		hosts = append(hosts, name)
	}
	host, _, _ := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		hosts = append(hosts, host)
	} else if addrs, err := net.InterfaceAddrs(); err == nil { // reached by any address
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
				hosts = append(hosts, n.IP.String())
			}
		}
	}
	hosts = append(hosts, allowed...)
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
