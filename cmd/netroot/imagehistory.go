package main

import (
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"netroot/internal/store"
)

func imageHistoryCmd(e *env) *cobra.Command {
	var asJSON, wide bool
	cmd := &cobra.Command{
		Use:   "history TAG",
		Short: "Show the moves of a tag",
		Long: `History prints the journal of a tag, the last move first: when it was moved, from
which version to which, by whom and why. The tag of a label is moved by builds.
The journal stays when the tag is removed. It begins with the first move after
netroot was updated to a version that writes journals.`,
		Example: `  netroot image history debian12
  netroot image history prod --json`,
		Args:              oneArg("tag"),
		ValidArgsFunction: e.images(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := e.openStore()
			if err != nil {
				return err
			}
			moves, err := s.History(cmd.Context(), e.imageNames(args...)[0])
			if errors.Is(err, store.ErrNotFound) {
				return usage(err)
			}
			if err != nil {
				return err
			}
			slices.Reverse(moves)
			if asJSON {
				return e.json(append([]store.Move{}, moves...)) // never null
			}
			rows := [][]string{{"TIME", "FROM", "TO", "BY", "WHY"}}
			for _, m := range moves {
				rows = append(rows, []string{m.Time.Local().Format(time.DateTime), idOf(m.From), idOf(m.To), m.By, m.Why})
			}
			return e.table(rows, wide)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	wideFlag(cmd, &wide)
	return cmd
}

// idOf is the id of a version in a journal, where there may be none.
func idOf(d digest.Digest) string {
	if d == "" {
		return "-"
	}
	return d.Encoded()[:12]
}
