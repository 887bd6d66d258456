package harness

import (
	"os"

	bolt "go.etcd.io/bbolt"
)

// Repage copies a database into one with another page size, and with the free pages listed in the
// file, which etcd does not do on Linux.
func Repage(file string, pageSize int) error {
	from, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := bolt.Open(file+".repaged", 0o600, &bolt.Options{PageSize: pageSize})
	if err != nil {
		return err
	}
	if err := bolt.Compact(to, from, 1<<20); err != nil {
		return err
	}
	if err := to.Close(); err != nil {
		return err
	}
	return os.Rename(file+".repaged", file)
}

// Pages lists the pages of a database that begin with a header and are reachable.
func Pages(file string) ([]int64, error) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	var pages []int64
	err = db.View(func(tx *bolt.Tx) error {
		for id := 2; ; id++ {
			page, err := tx.Page(id)
			if err != nil || page == nil {
				return err
			}
			if page.Type == "branch" || page.Type == "leaf" {
				pages = append(pages, int64(id))
			}
			id += page.OverflowCount
		}
	})
	return pages, err
}
