// Package confwatch follows a directory of configuration files: it reads what
// is there and tells when the content has changed.
package confwatch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

// MaxFileSize is the size in bytes above which a file is refused.
const MaxFileSize = 4 << 20

// Snapshot is the content of a directory at one moment, or why it could not be
// read.
type Snapshot struct {
	Files []conf.File
	Err   error
}

// Equal compares content; errors are equal if their texts are.
func (s Snapshot) Equal(t Snapshot) bool {
	if (s.Err == nil) != (t.Err == nil) || s.Err != nil && s.Err.Error() != t.Err.Error() {
		return false
	}
	return slices.EqualFunc(s.Files, t.Files, func(a, b conf.File) bool {
		return a.Name == b.Name && bytes.Equal(a.Data, b.Data)
	})
}

// Read returns the regular files of dir named *.conf in byte order of their
// names; symlinks are followed, dot files skipped. A File's Name is its path,
// dir included. If any file cannot be read no file is returned, so that half a
// configuration is never applied. The error of a missing dir is
// fs.ErrNotExist; what that means is the caller's choice.
func Read(dir string) ([]conf.File, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var files []conf.File
	var errs []error
	for _, e := range entries {
		if !wanted(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		data, ok, err := readFile(path)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("read configuration: %w", err))
		case ok:
			files = append(files, conf.File{Name: path, Data: data})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return files, nil
}

func wanted(name string) bool {
	return strings.HasSuffix(name, ".conf") && !strings.HasPrefix(name, ".")
}

// readFile returns ok false for what is not a regular file and for a file that
// went away since it was listed.
func readFile(path string) (data []byte, ok bool, err error) {
	// Without O_NONBLOCK, opening a fifo waits for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, openError(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, false, err
	}
	data, err = io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, false, err
	}
	if len(data) > MaxFileSize {
		return nil, false, fmt.Errorf("%s is larger than %d bytes, which no configuration is; remove it", path, MaxFileSize)
	}
	return data, true, nil
}

// openError forgives a file that is gone and a socket, which cannot be opened;
// a dangling symlink stays an error.
func openError(path string, err error) error {
	if errors.Is(err, syscall.ENXIO) {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Lstat(path); errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("%s is a symbolic link to nothing; remove it or mend its target: %w", path, err)
	}
	return err
}
