//! Tables of Unicode boxes, as `--write-out=table` asks for.
//!
//! *Contract.* tablewriter v1, as etcd v3.7.1 configures it.

/// A table with its headings centred and its cells to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let border = |left: &str, middle: &str, right: &str| {
        let lines: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let line = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let mut out = border("┌", "┬", "┐");
    out +=
        &line(head.iter().zip(&widths).map(|(cell, width)| format!(" {cell:^width$} ")).collect());
    if !rows.is_empty() {
        out += &border("├", "┼", "┤");
    }
    for row in rows {
        out += &line(
            row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} ")).collect(),
        );
    }
    out + &border("└", "┴", "┘")
}
