document.title = 'Tenax'
