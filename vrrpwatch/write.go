package vrrpwatch

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Write puts a record into its state file, for a notify script. Scripts of
// consecutive transitions run at the same time, so the file is locked by name
// and a record that is older than what stands there is dropped: by the order in
// which the scripts were started where it is known, else by stamp. The file
// appears whole, by rename, and can be read by everybody whatever the umask,
// which keepalived sets to 0177.
func Write(dir string, r Record) error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "."+r.Name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the state of %s: %w", r.Name, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the state of %s: %w", r.Name, err)
	}
	path := filepath.Join(dir, r.Name)
	if b, err := os.ReadFile(path); err == nil {
		if old, err := ParseState(b); err == nil {
			if r.older(&old) {
				return nil
			}
			if r.Order != (Order{}) {
				r.Stamp = after(r.Stamp, old.Stamp) // the reader goes by stamps
			}
		}
	}
	line := fmt.Sprintf("%s %d %d.%09d %s", r.State, r.Priority, r.Stamp.Unix(), r.Stamp.Nanosecond(), r.Kind)
	if r.Order != (Order{}) {
		line += " " + r.Order.String()
	}
	return replace(dir, path, []byte(line+"\n"))
}

func replace(dir, path string, content []byte) error {
	f, err := os.CreateTemp(dir, ".state-*")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err = f.Write(content)
	if e := f.Chmod(0o644); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}
