package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"netroot/internal/cache"
	"netroot/internal/site"
	"netroot/internal/term"
)

func cacheCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "List and remove what builds keep to be faster",
		Long: `A build keeps snapshots: the tree that the bootstrap agent installed; the tree of a
stage before its %post, if that stage and the stages from which it copies files took
longer than a second; and the archives of the initramfs. The key of a snapshot is
made of all its inputs. The next build with the same inputs starts from the
snapshot, unless it is "netroot build --no-cache".

A snapshot is used for a week. When all together take more than 20 GiB, those are
removed that were not used for the longest time. A build without its snapshot takes
longer and is otherwise the same.

Exit status of each command: 0 done, 1 a failure, 2 usage or configuration.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(cacheListCmd(e), cacheRemoveCmd(e))
	return cmd
}

// openCache returns the cache of the configuration's state directory.
func openCache(cfg *site.Site) *cache.Cache {
	return cache.New(filepath.Join(cfg.State, "cache"), cache.Options{})
}

func cacheListCmd(e *env) *cobra.Command {
	var asJSON, wide bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the snapshots, the last used first",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := e.config()
			if err != nil {
				return err
			}
			entries, err := openCache(cfg).List()
			if err != nil {
				return err
			}
			if asJSON {
				return e.json(entries)
			}
			return printSnapshots(e, entries, wide)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with whole keys, bytes and nanoseconds")
	wideFlag(cmd, &wide)
	return cmd
}

func printSnapshots(e *env, entries []cache.Entry, wide bool) error {
	if len(entries) == 0 {
		fmt.Fprintln(e.stderr, "no snapshots; builds make them")
		return nil
	}
	var total int64
	rows := [][]string{{"KEY", "WHAT", "LABEL", "SIZE", "USED", "MADE IN"}}
	for _, s := range entries {
		total += s.Size
		rows = append(rows, []string{s.Key.ID(), s.What, s.Label, term.Size(s.Size), s.Used.Local().Format("2006-01-02 15:04"), term.Duration(s.Took)})
	}
	if err := e.table(rows, wide); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.stdout, "together", term.Size(total))
	return err
}

func cacheRemoveCmd(e *env) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "rm KEY...|--all",
		Short: "Remove snapshots",
		Long: `Rm removes snapshots, and files that killed builds left in the cache. The first four
or more digits of a key are enough. A snapshot that a build is restoring stays.`,
		Example: `  netroot cache rm 3f9a1c
  netroot cache rm --all`,
		ValidArgsFunction: e.completeSnapshots,
		RunE: func(_ *cobra.Command, keys []string) error {
			if all == (len(keys) > 0) {
				return usage(errors.New("netroot cache rm requires keys or --all; \"netroot cache ls\" lists them"))
			}
			cfg, err := e.config()
			if err != nil {
				return err
			}
			c := openCache(cfg)
			for _, key := range keys {
				err = errors.Join(err, c.Remove(key))
			}
			if all {
				_, err = c.Prune(0)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every snapshot")
	return cmd
}
