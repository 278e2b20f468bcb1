"""What a run leaves behind: records, series and the folder that holds them. No torch in this room."""
