package confwatch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/conntrack-sync/conntrack-sync/conf"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// shown is "name=content" for each file.
func shown(files []conf.File) (out []string) {
	for _, f := range files {
		out = append(out, filepath.Base(f.Name)+"="+string(f.Data))
	}
	return out
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(t.TempDir(), "target")
	write(t, elsewhere, "linked")
	write(t, filepath.Join(dir, "b.conf"), "2")
	write(t, filepath.Join(dir, "a.conf"), "1")
	write(t, filepath.Join(dir, "B.conf"), "0")
	write(t, filepath.Join(dir, ".hidden.conf"), "x")
	write(t, filepath.Join(dir, "a.conf~"), "x")
	must(t, os.Mkdir(filepath.Join(dir, "dir.conf"), 0o755))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo.conf"), 0o600))
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "c.conf")))
	files, err := Read(dir)
	must(t, err)
	if got, want := shown(files), []string{"B.conf=0", "a.conf=1", "b.conf=2", "c.conf=linked"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := filepath.Join(dir, "B.conf"); files[0].Name != want {
		t.Errorf("name %q, want %q", files[0].Name, want)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "good.conf"), "1")
	big := filepath.Join(dir, "big.conf")
	write(t, big, "")
	must(t, os.Truncate(big, MaxFileSize))
	if files, err := Read(dir); err != nil || len(files) != 2 {
		t.Errorf("at the limit: %d files, %v", len(files), err)
	}
	must(t, os.Truncate(big, MaxFileSize+1))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.conf")))
	files, err := Read(dir)
	if err == nil || files != nil {
		t.Fatalf("files %q, error %v", shown(files), err)
	}
	for _, name := range []string{"big.conf", "dangling.conf"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%q does not name %s", err, name)
		}
	}
}

func TestReadMissing(t *testing.T) {
	_, err := Read(filepath.Join(t.TempDir(), "conf.d"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
