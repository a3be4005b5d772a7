package main

import (
	"net"
	"testing"
)

func TestSayReady(t *testing.T) {
	path := t.TempDir() + "/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	socket := notifySocket()
	if err := sayReady(socket); err != nil || socket != path {
		t.Error(socket, err)
	}
	b := make([]byte, 100)
	if n, err := l.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if notifySocket() != "" {
		t.Error("what is started inherits the socket")
	}
	if err := sayReady(""); err != nil {
		t.Error(err)
	}
	if err := sayReady(path + "-none"); err == nil {
		t.Error("no error")
	}
}
