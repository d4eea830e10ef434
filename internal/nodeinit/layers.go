package nodeinit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/report"
)

// applyLayers puts over the root the layers that it has itself below /etc/rootovl, as far as
// rootovlcfg= names them, and over those the archives of netroot.layer=, each checked against the
// digest that the command line names.
//
// A layer that the root does not have, a file that does not fit, or a line of a deletion list that
// cannot be executed is reported, and the boot continues: another attempt would not help. An
// archive that cannot be fetched is requested again, because the plan says that this node needs it;
// when that has failed for minutes the archive may have been withdrawn, and the machine restarts
// for a new plan.
func (n *node) applyLayers(ctx context.Context, out report.Step) (string, error) {
	place := newRoot
	if !n.boot.Overlay.Enabled {
		place = "/" // its /run becomes the root's
	}
	return n.applyLayersTo(ctx, out, place)
}

func (n *node) applyLayersTo(ctx context.Context, out report.Step, place string) (string, error) {
	if len(n.boot.TreeLayers)+len(n.boot.Layers) == 0 {
		return "", nil
	}
	archives, err := n.fetchLayers(ctx) // all of them before the root is touched
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(place)
	if err != nil {
		return "", err
	}
	defer root.Close()
	var said []string
	if text := n.applyTreeLayers(out, root); text != "" {
		said = append(said, text)
	}
	total := 0
	for i, l := range n.boot.Layers {
		fault := func(err error) { out.Fault(fmt.Errorf("%s: %w", l.Digest, err)) }
		if err := layer.ApplyLayer(root, bytes.NewReader(archives[i]), fault); err != nil {
			return "", fmt.Errorf("unpack %s: %w", l.URL, err)
		}
		total += len(archives[i])
		archives[i] = nil
	}
	if len(archives) > 0 {
		said = append(said, fmt.Sprintf("%d of the server, %d bytes", len(archives), total))
	}
	return strings.Join(said, ", "), nil
}

func (n *node) applyTreeLayers(out report.Step, root *os.Root) string {
	names := n.boot.TreeLayers
	switch {
	case len(names) == 0:
		return ""
	case !n.boot.Overlay.Enabled:
		out.Fault(fmt.Errorf("rootovlcfg=%s needs memory over the root: add rootovl; none of them is applied", strings.Join(names, ",")))
		return ""
	}
	applied := layer.ApplyTree(root, names, func(name string, err error) {
		out.Fault(fmt.Errorf("%s: %w", name, err))
	})
	return fmt.Sprintf("%d of %d in the tree", applied, len(names))
}

// fetchLayers fetches all archives. For a root without an overlay they may contain only what
// belongs below /run.
func (n *node) fetchLayers(ctx context.Context) ([][]byte, error) {
	var out [][]byte
	for _, l := range n.boot.Layers {
		archive, err := fetchLayer(ctx, l)
		if err != nil {
			return nil, err
		}
		if !n.boot.Overlay.Enabled {
			if err := layer.Below(archive, "run"); err != nil {
				return nil, fmt.Errorf("%s: %w: what is put over a root without rootovl must be below run/", l.URL, err)
			}
		}
		out = append(out, archive)
	}
	return out, nil
}

func fetchLayer(ctx context.Context, l handoff.Layer) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := attach.Web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch %s: the server says %s", l.URL, resp.Status)
	}
	archive, err := io.ReadAll(io.LimitReader(resp.Body, layer.MaxArchive+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", l.URL, err)
	}
	if len(archive) > layer.MaxArchive {
		return nil, fmt.Errorf("fetch %s: more than %d MiB", l.URL, layer.MaxArchive>>20)
	}
	if got := handoff.DigestOf(archive); got != l.Digest {
		return nil, fmt.Errorf("fetch %s: what came has digest %s", l.URL, got)
	}
	return archive, nil
}
