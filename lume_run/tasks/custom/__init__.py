"""Rows of the user's own: files of many kinds, columns that are guessed, questions, chats and texts."""
