package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// makeKeys writes what senders need into a folder: the certificate to trust, which is the server's
// own, a signing key for APNs, a service account for FCM. It returns their places.
func makeKeys(folder, url string) (tls.Certificate, map[string]string) {
	key := newKey()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Gateway for load"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	account, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	content, _ := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": "example-project", "private_key_id": "0123456789abcdef",
		"private_key": string(pemOf(account)), "client_email": "sender@example-project.iam.gserviceaccount.com",
		"client_id": "100000000000000000000", "auth_uri": url + "/token", "token_uri": url + "/token",
		"universe_domain": "googleapis.com",
	}, "", "  ")
	write := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		check(os.WriteFile(path, content, 0o600))
		return path
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, map[string]string{
		"ca":          write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"key":         write("AuthKey_KEY1234567.p8", pemOf(newKey())),
		"credentials": write("service-account.json", content),
		"key_id":      "KEY1234567", "team_id": "TEAM123456", "topic": "com.example.app", "project": "example-project",
	}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return key
}

func pemOf(key any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
