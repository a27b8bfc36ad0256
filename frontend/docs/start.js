/* global SwaggerUIBundle */
/* validatorUrl null: otherwise the viewer would send the document's address to a host outside. */
SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  docExpansion: 'none',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    request.headers['X-WebMACS'] = '1'
    return request
  },
})
