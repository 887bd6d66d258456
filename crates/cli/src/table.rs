//! Tables, as `--write-out=table` asks for.
//!
//! *Contract.* tablewriter v1, as etcd v3.7.1 configures it, and v0, as etcd v3.4 did.

/// The characters of which lines are drawn.
struct Lines {
    across: &'static str,
    down: &'static str,
    top: [&'static str; 3],
    middle: [&'static str; 3],
    bottom: [&'static str; 3],
}

const BOXES: Lines = Lines {
    across: "─",
    down: "│",
    top: ["┌", "┬", "┐"],
    middle: ["├", "┼", "┤"],
    bottom: ["└", "┴", "┘"],
};

const ASCII: Lines = Lines {
    across: "-",
    down: "|",
    top: ["+", "+", "+"],
    middle: ["+", "+", "+"],
    bottom: ["+", "+", "+"],
};

/// A table with its headings centred and its cells to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    draw(head, rows, &BOXES)
}

/// The same as it looked before 3.6.
pub(crate) fn ascii_table(head: &[&str], rows: &[Vec<String>]) -> String {
    draw(head, rows, &ASCII)
}

fn draw(head: &[&str], rows: &[Vec<String>], lines: &Lines) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let border = |[left, middle, right]: [&str; 3]| {
        let cells: Vec<String> =
            widths.iter().map(|width| lines.across.repeat(width + 2)).collect();
        format!("{left}{}{right}\n", cells.join(middle))
    };
    let line = |cells: Vec<String>| format!("{0}{1}{0}\n", lines.down, cells.join(lines.down));
    let mut out = border(lines.top);
    out +=
        &line(head.iter().zip(&widths).map(|(cell, width)| format!(" {cell:^width$} ")).collect());
    if !rows.is_empty() {
        out += &border(lines.middle);
    }
    for row in rows {
        out += &line(
            row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} ")).collect(),
        );
    }
    out + &border(lines.bottom)
}
