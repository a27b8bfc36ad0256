/* The theme that was chosen in WebMACS, before anything is drawn. */
document.documentElement.classList.toggle('dark-mode', localStorage.getItem('webmacs.theme') !== 'light')
