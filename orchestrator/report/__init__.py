"""What people read: conclusions, tables, figures, the page."""
