"""The examiner's tool: both people of a face swap, from images, folders and videos."""
