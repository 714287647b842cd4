//! Reading what kubectl prints as a table.

/// Rows under named columns. Columns are found by the header's positions, so cells may hold single spaces or be empty.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, usize)>,
    rows: Vec<String>,
}

impl Table {
    /// Parses a header line and rows.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter(|l| !l.trim().is_empty());
        let header = lines.next().unwrap_or_else(|| panic!("no table in {text:?}"));
        let mut columns = Vec::new();
        let mut rest = header;
        let mut position = 0;
        // Headers are parted by at least two spaces; a header may hold single ones (`NODE SELECTOR`).
        while !rest.trim().is_empty() {
            let lead = rest.len() - rest.trim_start().len();
            let body = &rest[lead..];
            let end = body.find("  ").unwrap_or(body.len());
            columns.push((body[..end].trim().to_owned(), position + lead));
            position += lead + end;
            rest = &body[end..];
        }
        Self { columns, rows: lines.map(str::to_owned).collect() }
    }

    pub fn headers(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A row's cell.
    #[track_caller]
    pub fn cell(&self, row: usize, column: &str) -> String {
        let index = self.columns.iter().position(|(name, _)| name == column);
        let index = index.unwrap_or_else(|| panic!("no column {column:?} among {:?}", self.headers()));
        let characters: Vec<char> = self.rows[row].chars().collect();
        let start = self.columns[index].1.min(characters.len());
        let end = self.columns.get(index + 1).map_or(characters.len(), |(_, next)| (*next).min(characters.len()));
        characters[start..end].iter().collect::<String>().trim().to_owned()
    }

    /// The row whose first cell is this.
    #[track_caller]
    pub fn row(&self, first: &str) -> usize {
        let column = self.columns[0].0.clone();
        let found = (0..self.rows.len()).find(|row| self.cell(*row, &column) == first);
        found.unwrap_or_else(|| panic!("no row {first:?} in:\n{}", self.rows.join("\n")))
    }

    /// A column's cells.
    pub fn column(&self, column: &str) -> Vec<String> {
        (0..self.rows.len()).map(|row| self.cell(row, column)).collect()
    }
}
